#include <gtest/gtest.h>

#include <thread>

#include "iommu/type1/type1.h"
#include "tests/support/fake_device.h"
#include "uvfio/host.h"

namespace uvfio::mdev {
namespace {

constexpr std::string_view kUuid = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";

class BusTest : public ::testing::Test {
 protected:
  std::shared_ptr<Parent> add_parent(const std::string& name = "card") {
    auto parent = bus_.register_parent({.name = name,
                                        .driver_name = "fake",
                                        .sysfs_path = "devices/virtual/fake/" + name,
                                        .types = {{"1", "One"}, {"2", "Two"}}},
                                       driver_);
    EXPECT_TRUE(parent);
    return *parent;
  }
  Status store(const std::shared_ptr<Parent>& parent, std::string_view text) {
    return bus_.store_create(parent, parent->types()[0], text);
  }

  testing::FakeDriver driver_{2};
  Host host_;
  Bus& bus_ = host_.mdev();
};

TEST_F(BusTest, Registration) {
  EXPECT_EQ(bus_.register_parent({.name = "card", .types = {{"1", "One"}}}, driver_).error(),
            Errno{EINVAL});
  ASSERT_TRUE(bus_.register_driver(driver_));
  EXPECT_EQ(bus_.register_driver(driver_), fail(EEXIST));
  EXPECT_EQ(bus_.register_parent({.name = "card"}, driver_).error(), Errno{EINVAL}) << "no types";
  const auto parent = add_parent();
  EXPECT_EQ(bus_.register_parent(parent->info(), driver_).error(), Errno{EEXIST});
  EXPECT_EQ(parent->type_id(parent->types()[1]), "fake-2");
}

TEST_F(BusTest, CreateChecksInOrder) {
  ASSERT_TRUE(bus_.register_driver(driver_));
  const auto parent = add_parent();
  const auto other = add_parent("other");
  EXPECT_EQ(store(parent, ""), fail(EINVAL));
  EXPECT_EQ(store(parent, "83b8f4f2-509f-382f-3c1e-e6bfe0fa100"), fail(EINVAL));
  EXPECT_EQ(store(parent, "83b8f4f2-509f-382f-3c1e-e6bfe0fa100x"), fail(EINVAL));
  driver_.probe_result = fail(ENOSPC);
  EXPECT_EQ(store(parent, kUuid), fail(ENOSPC));
  EXPECT_EQ(parent->available_instances(parent->types()[0]), 2u) << "a failed create costs nothing";
  driver_.probe_result = {};
  EXPECT_TRUE(store(parent, std::string(kUuid) + "?")) << "the 37th character is ignored";
  EXPECT_EQ(store(other, kUuid), fail(EEXIST)) << "UUIDs are unique over all parents";
  EXPECT_EQ(parent->available_instances(parent->types()[1]), 1u) << "shared by all types";
  EXPECT_TRUE(bus_.create(parent, parent->types()[1], Uuid::random()));
  EXPECT_EQ(bus_.create(parent, parent->types()[0], Uuid::random()).error(), Errno{EUSERS});
  EXPECT_EQ(store(parent, kUuid), fail(EEXIST)) << "before the instances are counted";
  EXPECT_EQ(bus_.devices().size(), 2u);
}

TEST_F(BusTest, DevicesHaveAGroupOfTheirOwn) {
  ASSERT_TRUE(bus_.register_driver(driver_));
  const auto parent = add_parent();
  ASSERT_TRUE(store(parent, kUuid));
  const auto device = bus_.find(*Uuid::parse(kUuid));
  ASSERT_TRUE(device);
  EXPECT_EQ(device->vfio_device()->group().type(), iommu::GroupType::emulated);
  EXPECT_EQ(device->vfio_device()->sysfs_path(), "devices/virtual/fake/card/" + std::string(kUuid));
  EXPECT_NE(host_.vfio().find_group(device->vfio_device()->group().id()), nullptr);
}

TEST_F(BusTest, Remove) {
  ASSERT_TRUE(bus_.register_driver(driver_));
  const auto parent = add_parent();
  ASSERT_TRUE(store(parent, kUuid));
  auto device = bus_.find(*Uuid::parse(kUuid));
  EXPECT_EQ(bus_.store_remove(device, "x"), fail(EINVAL));
  EXPECT_TRUE(bus_.store_remove(device, "0"));
  EXPECT_EQ(bus_.devices().size(), 1u);
  EXPECT_TRUE(bus_.store_remove(device, "1\n"));
  EXPECT_EQ(driver_.removed, 1);
  EXPECT_EQ(bus_.store_remove(device, "1"), fail(ENODEV));
  EXPECT_EQ(parent->available_instances(parent->types()[0]), 1u) << "until the object goes";
  device.reset();
  EXPECT_EQ(parent->available_instances(parent->types()[0]), 2u);
  EXPECT_TRUE(host_.vfio().groups().empty());
}

TEST_F(BusTest, RemoveWaitsForTheUserAndOnlyOneRemoverWins) {
  ASSERT_TRUE(bus_.register_driver(driver_));
  const auto parent = add_parent();
  ASSERT_TRUE(store(parent, kUuid));
  const auto device = bus_.find(*Uuid::parse(kUuid));
  const auto container = host_.vfio().open_container();
  auto group = *device->vfio_device()->group().open();
  ASSERT_TRUE(group->set_container(container));
  ASSERT_TRUE(container->set_iommu(VFIO_TYPE1v2_IOMMU));
  auto file = *vfio::GroupFile::get_device(group, kUuid);
  std::jthread user;
  driver_.record.on_request = [&] {
    EXPECT_EQ(bus_.remove(device), fail(EAGAIN)) << "somebody else is at it";
    EXPECT_EQ(store(parent, kUuid), fail(EEXIST));
    user = std::jthread([&] { file.reset(); });
  };
  EXPECT_TRUE(bus_.remove(device));
  EXPECT_EQ(driver_.record.closed, 1);
}

TEST_F(BusTest, CreateDuringProbeOfTheSameUuid) {
  ASSERT_TRUE(bus_.register_driver(driver_));
  const auto parent = add_parent();
  driver_.during_probe = [&] {
    driver_.during_probe = nullptr;
    EXPECT_EQ(store(parent, kUuid), fail(EEXIST));
    EXPECT_EQ(bus_.remove(bus_.find(*Uuid::parse(kUuid))), fail(EAGAIN)) << "not active yet";
    EXPECT_TRUE(bus_.create(parent, parent->types()[0], Uuid::random())) << "others go in parallel";
  };
  EXPECT_TRUE(store(parent, kUuid));
}

TEST_F(BusTest, UnregisteringAParentRemovesItsDevices) {
  ASSERT_TRUE(bus_.register_driver(driver_));
  const auto parent = add_parent();
  const auto other = add_parent("other");
  ASSERT_TRUE(store(parent, kUuid));
  ASSERT_TRUE(bus_.create(other, other->types()[0], Uuid::random()));
  bus_.unregister_parent(parent);
  EXPECT_EQ(bus_.devices().size(), 1u);
  EXPECT_EQ(store(parent, kUuid), fail(ENODEV));
  EXPECT_EQ(parent->available_instances(parent->types()[0]), 2u);
}

TEST_F(BusTest, MatchDecidesWhichDriverBinds) {
  struct Picky final : Driver {
    std::string name() const override { return "picky"; }
    std::string device_api() const override { return "vfio-pci"; }
    bool match(const Device& device) const override { return device.type().sysfs_name == "2"; }
    Result<std::unique_ptr<vfio::DeviceOps>> probe(Device&) override { return fail(EIO); }
  } picky;
  ASSERT_TRUE(bus_.register_driver(picky));
  ASSERT_TRUE(bus_.register_driver(driver_));
  const auto parent = add_parent();
  EXPECT_TRUE(bus_.create(parent, parent->types()[0], Uuid::random()));
  EXPECT_EQ(bus_.create(parent, parent->types()[1], Uuid::random()).error(), Errno{EIO});
  bus_.unregister_driver(driver_);
  EXPECT_TRUE(bus_.devices().empty());
  EXPECT_EQ(bus_.create(parent, parent->types()[0], Uuid::random()).error(), Errno{ENODEV});
}

}  // namespace
}  // namespace uvfio::mdev
