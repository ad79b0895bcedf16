#include "uvfio/pci_bus.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "pci/host_driver.h"
#include "pci/model_for_test.h"
#include "uvfio/iommu_unit.h"
#include "uvfio/vfio.h"

namespace uvfio::pci {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(Address, ReadsWhatSysfsWrites) {
  const auto address = Address::parse("0001:02:1f.7");
  ASSERT_TRUE(address);
  EXPECT_EQ(*address, (Address{.segment = 1, .bus = 2, .device = 31, .function = 7}));
  EXPECT_EQ(address->to_string(), "0001:02:1f.7");
  EXPECT_EQ(Address::parse("a0:00.1")->to_string(), "0000:a0:00.1");
  for (const char* text : {"", "0000:01:00", "0000:01:00.8", "0000:01:20.0", "0000:01:00.0 ",
                           "x000:01:00.0", "00000:01:00.0", "01:00.00", "-1:00.0"}) {
    EXPECT_FALSE(Address::parse(text)) << text;
  }
}

// A driver like vfio-pci: its devices' DMA is not the host's.
class UserDriver final : public Driver {
 public:
  [[nodiscard]] std::string name() const override { return "user"; }
  [[nodiscard]] bool driver_managed_dma() const override { return true; }
  [[nodiscard]] Status probe(Device& device) override {
    if (probe_fails) return fail(ENOMEM);
    probed.push_back(device.name());
    return {};
  }
  void remove(Device& device) override { removed.push_back(device.name()); }
  bool probe_fails = false;
  std::vector<std::string> probed, removed;
};

class BusTest : public testing::Test {
 protected:
  ~BusTest() override {
    bus_.unregister_driver(user_);
    bus_.unregister_driver(host_);
  }
  std::shared_ptr<Device> plug(const char* address, std::string group = "",
                               Description description = everything()) {
    auto device = bus_.plug({.address = *Address::parse(address),
                             .group = std::move(group),
                             .unit = unit_,
                             .reserved = {}},
                            std::make_unique<TestModel>(std::move(description)));
    EXPECT_TRUE(device);
    return device ? *device : nullptr;
  }
  static std::string driver_of(const Device& device) {
    return device.driver() == nullptr ? "" : device.driver()->name();
  }

  const std::shared_ptr<iommu::Unit> unit_ = std::make_shared<iommu::Unit>(iommu::UnitProperties{});
  vfio::Vfio vfio_{5};
  Bus bus_{vfio_};
  UserDriver user_;
  HostDriver host_{"host", {{.vendor = 0x1234, .device = 0x5678}}};
};

TEST_F(BusTest, FunctionsOfASlotShareAGroup) {
  const auto a = plug("0000:01:00.0");
  const auto b = plug("0000:01:00.1");
  const auto c = plug("0000:01:01.0");
  const auto d = plug("0000:02:00.0", "special");
  const auto e = plug("0000:03:00.0", "special");
  EXPECT_EQ(a->iommu_group()->id(), 5u);
  EXPECT_EQ(a->iommu_group(), b->iommu_group());
  EXPECT_NE(a->iommu_group(), c->iommu_group());
  EXPECT_EQ(d->iommu_group(), e->iommu_group());
  EXPECT_EQ(bus_.groups().size(), 3u);
  EXPECT_EQ(bus_.reset_set(*a).size(), 3u);
  EXPECT_EQ(bus_.reset_set(*plug("0000:00:05.0")).size(), 1u) << "a slot of bus 00";

  const auto other = std::make_shared<iommu::Unit>(iommu::UnitProperties{});
  EXPECT_EQ(bus_.plug({.address = {.bus = 4}, .group = "special", .unit = other, .reserved = {}},
                      std::make_unique<TestModel>())
                .error(),
            Errno{EINVAL});
  EXPECT_EQ(bus_.plug({.address = a->address(), .group = "", .unit = unit_, .reserved = {}},
                      std::make_unique<TestModel>())
                .error(),
            Errno{EEXIST});
}

TEST_F(BusTest, BarsGetAddresses) {
  const auto a = plug("0000:01:00.0");
  const auto b = plug("0000:01:01.0");
  for (const auto& device : {a, b}) {
    const auto& resources = device->resources();
    EXPECT_EQ(resources[0].flags, 0x14220cu);
    EXPECT_EQ(resources[0].first % 0x4000, 0u);
    EXPECT_EQ(resources[0].last - resources[0].first, 0x3fffu);
    EXPECT_EQ(resources[1].flags, 0u);
    EXPECT_EQ(resources[2].flags, 0x40200u);
    EXPECT_EQ(resources[4].flags, 0x40101u);
    EXPECT_EQ(resources[6].flags, 0x44200u);
    EXPECT_EQ(device->function().config_get(0x18, 4), resources[2].first);
    EXPECT_EQ(device->function().config_get(0x14, 4), resources[0].first >> 32);
  }
  EXPECT_GT(b->resources()[2].first, a->resources()[2].last);
  const auto before = a->resources()[2].first;
  ASSERT_TRUE(bus_.unplug(a->address()));
  EXPECT_EQ(bus_.unplug(a->address()).error(), Errno{ENODEV});
  EXPECT_EQ(plug("0000:07:00.0")->resources()[2].first, before) << "given back";
}

TEST_F(BusTest, DriversBindWhatTheyMatch) {
  ASSERT_TRUE(bus_.register_driver(user_));
  EXPECT_EQ(bus_.register_driver(user_).error(), Errno{EEXIST});
  const auto device = plug("0000:01:00.0");
  EXPECT_EQ(driver_of(*device), "");
  EXPECT_EQ(bus_.bind(user_, "0000:01:00.0").error(), Errno{ENODEV}) << "no match";
  EXPECT_EQ(bus_.bind(user_, "0000:09:00.0").error(), Errno{ENODEV});
  ASSERT_TRUE(bus_.register_driver(host_));
  EXPECT_EQ(driver_of(*device), "host");
  EXPECT_EQ(bus_.bind(host_, "0000:01:00.0").error(), Errno{EBUSY});
  EXPECT_EQ(bus_.unbind(user_, "0000:01:00.0").error(), Errno{ENODEV});
  ASSERT_TRUE(bus_.unbind(host_, "0000:01:00.0\n"));
  EXPECT_EQ(driver_of(*device), "");
  ASSERT_TRUE(bus_.bind(host_, "0000:01:00.0\n"));
  EXPECT_EQ(device->enable_count(), 1u);
  EXPECT_EQ(device->store_enable(true).error(), Errno{EBUSY});
}

TEST_F(BusTest, OverrideDecides) {
  ASSERT_TRUE(bus_.register_driver(host_));
  ASSERT_TRUE(bus_.register_driver(user_));
  const auto device = plug("0000:01:00.0");
  ASSERT_TRUE(device->set_driver_override("user\n"));
  EXPECT_EQ(driver_of(*device), "host") << "a binding stays";
  ASSERT_TRUE(bus_.unbind(host_, device->name()));
  EXPECT_EQ(bus_.bind(host_, device->name()).error(), Errno{ENODEV});
  ASSERT_TRUE(bus_.drivers_probe(device->name()));
  EXPECT_EQ(driver_of(*device), "user");
  ASSERT_TRUE(device->set_driver_override("\n"));
  EXPECT_EQ(device->driver_override(), std::nullopt);
  ASSERT_TRUE(device->set_driver_override(std::string_view("\0", 1)));
  EXPECT_EQ(device->driver_override(), std::nullopt);
  EXPECT_EQ(device->set_driver_override(std::string(4096, 'x')).error(), Errno{EINVAL});
  EXPECT_EQ(bus_.drivers_probe("0000:09:00.0").error(), Errno{ENODEV});
}

TEST_F(BusTest, DynamicIds) {
  ASSERT_TRUE(bus_.register_driver(user_));
  const auto device = plug("0000:01:00.0");
  EXPECT_EQ(bus_.new_id(user_, "1234").error(), Errno{EINVAL});
  EXPECT_EQ(bus_.new_id(user_, "").error(), Errno{EINVAL});
  ASSERT_TRUE(bus_.new_id(user_, "1234 5678 ffff\n"));
  EXPECT_EQ(driver_of(*device), "") << "another subsystem";
  ASSERT_TRUE(bus_.new_id(user_, "1234 5678\n"));
  EXPECT_EQ(driver_of(*device), "user");
  EXPECT_EQ(bus_.new_id(user_, "0x1234 0x5678").error(), Errno{EEXIST});
  EXPECT_EQ(bus_.remove_id(user_, "1 2").error(), Errno{ENODEV});
  EXPECT_EQ(bus_.remove_id(user_, "x").error(), Errno{EINVAL});
  ASSERT_TRUE(bus_.remove_id(user_, "1234 5678"));
  ASSERT_TRUE(bus_.remove_id(user_, "1234 5678")) << "the other one";
  ASSERT_TRUE(bus_.unbind(user_, device->name()));
  EXPECT_EQ(bus_.bind(user_, device->name()).error(), Errno{ENODEV});

  ASSERT_TRUE(bus_.register_driver(host_));
  EXPECT_EQ(bus_.new_id(host_, "1234 5678").error(), Errno{EEXIST}) << "a static id";
  EXPECT_EQ(bus_.new_id(host_, "1 2 3 4 0 0 77").error(), Errno{EINVAL}) << "no such driver data";
}

TEST_F(BusTest, AFailedProbeLeavesTheDeviceFree) {
  ASSERT_TRUE(bus_.register_driver(user_));
  const auto device = plug("0000:01:00.0");
  ASSERT_TRUE(device->set_driver_override("user"));
  user_.probe_fails = true;
  EXPECT_EQ(bus_.bind(user_, device->name()).error(), Errno{ENOMEM});
  EXPECT_TRUE(bus_.drivers_probe(device->name()));
  EXPECT_EQ(driver_of(*device), "");
  user_.probe_fails = false;
  EXPECT_TRUE(bus_.bind(user_, device->name()));
}

TEST_F(BusTest, AHostDriverAndAUserExcludeEachOther) {
  ASSERT_TRUE(bus_.register_driver(user_));
  bus_.set_autoprobe(false);
  ASSERT_TRUE(bus_.register_driver(host_));
  const auto a = plug("0000:01:00.0");
  const auto b = plug("0000:01:00.1");
  EXPECT_EQ(driver_of(*a), "");
  ASSERT_TRUE(bus_.bind(host_, b->name()));
  EXPECT_FALSE(a->iommu_group()->dma_owner_claimable());
  ASSERT_TRUE(bus_.unbind(host_, b->name()));
  ASSERT_TRUE(a->iommu_group()->claim_dma_owner());
  EXPECT_EQ(bus_.bind(host_, b->name()).error(), Errno{EBUSY});
  EXPECT_EQ(bus_.drivers_probe(b->name()).error(), Errno{EINVAL});
  a->iommu_group()->release_dma_owner();
  EXPECT_TRUE(bus_.drivers_probe(b->name()));
  EXPECT_EQ(driver_of(*b), "host");
}

TEST_F(BusTest, RemoveAndRescan) {
  ASSERT_TRUE(bus_.register_driver(user_));
  ASSERT_TRUE(bus_.new_id(user_, "1234 5678"));
  auto device = plug("0000:01:00.0");
  ASSERT_TRUE(bus_.remove(device));
  EXPECT_EQ(bus_.remove(device).error(), Errno{ENODEV});
  EXPECT_THAT(user_.removed, ElementsAre("0000:01:00.0"));
  EXPECT_THAT(bus_.devices(), IsEmpty());
  EXPECT_EQ(bus_.bind(user_, "0000:01:00.0").error(), Errno{ENODEV});
  device.reset();
  EXPECT_THAT(bus_.groups(), IsEmpty());
  bus_.rescan();
  ASSERT_EQ(bus_.devices().size(), 1u);
  EXPECT_EQ(driver_of(*bus_.devices()[0]), "user");
  EXPECT_EQ(bus_.devices()[0]->iommu_group()->id(), 5u);
  ASSERT_TRUE(bus_.unplug(*Address::parse("0000:01:00.0")));
  bus_.rescan();
  EXPECT_THAT(bus_.devices(), IsEmpty());
}

TEST_F(BusTest, ResetsInTheWayThatThereIs) {
  const auto a = plug("0000:01:00.0");
  EXPECT_THAT(a->reset_methods(), ElementsAre("flr", "pm", "bus"));
  EXPECT_TRUE(a->reset());
  Description plain{.vendor_id = 1, .power_management = false, .pcie = false};
  const auto b = plug("0000:02:00.0", "", plain);
  EXPECT_THAT(b->reset_methods(), ElementsAre("bus"));
  auto& model = static_cast<TestModel&>(b->function().model());
  const unsigned before = model.resets;
  EXPECT_TRUE(b->reset());
  EXPECT_EQ(model.resets, before + 1);
  plug("0000:02:01.0", "", plain);
  EXPECT_THAT(b->reset_methods(), IsEmpty());
  EXPECT_EQ(b->reset().error(), Errno{ENOTTY});
}

TEST_F(BusTest, EnableIsCounted) {
  const auto device = plug("0000:01:00.0");
  EXPECT_EQ(device->disable().error(), Errno{EIO});
  ASSERT_TRUE(device->store_enable(true));
  device->enable();
  EXPECT_EQ(device->function().config_get(4, 2), 3u) << "I/O and memory";
  EXPECT_TRUE(device->disable());
  EXPECT_TRUE(device->store_enable(false));
  EXPECT_EQ(device->store_enable(false).error(), Errno{EIO});
}

}  // namespace
}  // namespace uvfio::pci
