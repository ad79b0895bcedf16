#include "inspect/inspect.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "iommu/unit/fault_queue.h"
#include "tests/support/fake_device.h"
#include "uvfio/embedded.h"

namespace uvfio::inspect {
namespace {

using ::testing::HasSubstr;

TEST(Inspect, ShowsContainersDevicesAccountsAndFaults) {
  Host host(3);
  testing::FakeDevice::Record record;
  auto unit = std::make_shared<iommu::Unit>(iommu::UnitProperties{});
  auto iommu_group = std::make_shared<iommu::IommuGroup>(host.vfio().allocate_group_id(),
                                                         iommu::GroupType::real, unit);
  const auto device = host.vfio().register_real("0000:01:00.0", "devices/pci", iommu_group,
                                                std::make_unique<testing::FakeDevice>(record));
  {
    const auto container = host.vfio().open_container();
    auto group = *device->group().open();
    ASSERT_TRUE(group->set_container(container));
    EXPECT_THAT(to_text(to_json(host)), HasSubstr("container 1: groups 3, no IOMMU set"));
    ASSERT_TRUE(container->set_iommu(VFIO_TYPE1v2_IOMMU));
    const auto file = *vfio::GroupFile::get_device(group, "0000:01:00.0");
    alignas(4096) static std::array<std::byte, 8192> memory;
    ASSERT_TRUE(embedded::map_dma(*container, 0x10000, memory.data(), memory.size()));
    std::array<std::byte, 4> data{};
    EXPECT_FALSE(device->dma()->read(0x20000, data));

    const auto json = to_json(host);
    const auto& seen = json["containers"][0];
    EXPECT_EQ(seen["iommu"], "type1v2");
    EXPECT_EQ(seen["mappings"][0]["iova"], "0x10000");
    EXPECT_EQ(seen["mappings"][0]["in_domains"], true);
    EXPECT_EQ(seen["domains"][0]["pages"]["4K"], 2);
    EXPECT_EQ(json["groups"][0]["devices"][0]["open"], true);
    EXPECT_EQ(json["accounts"][0]["charged_pages"], 2);
    EXPECT_EQ(json["iommu_units"][0]["faults"][0]["iova"], "0x20000");
    const std::string text = to_text(json);
    EXPECT_THAT(text, HasSubstr("group 3: real behind iommu0: 0000:01:00.0 (open)"));
    EXPECT_THAT(text, HasSubstr("2 of "));
    EXPECT_THAT(text, HasSubstr("container 1 has 2"));
    EXPECT_THAT(faults_to_text(json),
                HasSubstr("0000:01:00.0 read iova 0x20000, size 0x4: no mapping"));
    ASSERT_TRUE(embedded::unmap_dma(*container, 0x10000, memory.size()));
  }
  EXPECT_EQ(unit->faults().total(), 1u);
  EXPECT_TRUE(to_json(host)["containers"].empty());
  host.vfio().unregister(device);
}

}  // namespace
}  // namespace uvfio::inspect
