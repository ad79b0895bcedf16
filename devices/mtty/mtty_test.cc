#include "devices/mtty/mtty.h"

#include <gtest/gtest.h>

#include "uvfio/vfio.h"

namespace uvfio::mtty {
namespace {

class MttyTest : public testing::Test {
 protected:
  void SetUp() override {
    auto parent = register_mtty(bus_, driver_);
    ASSERT_TRUE(parent);
    parent_ = *parent;
  }
  void TearDown() override {
    bus_.unregister_parent(parent_);
    bus_.unregister_driver(driver_);
  }
  const mdev::Type& type(std::size_t ports) { return parent_->types()[ports - 1]; }
  auto create(std::size_t ports) { return bus_.create(parent_, type(ports), Uuid::random()); }

  MttyDriver driver_;
  vfio::Vfio vfio_;
  mdev::Bus bus_{vfio_};
  std::shared_ptr<mdev::Parent> parent_;
};

TEST_F(MttyTest, IsKnownAsTheSample) {
  EXPECT_EQ(driver_.name(), "mtty");
  EXPECT_EQ(driver_.device_api(), "vfio-pci");
  EXPECT_EQ(parent_->info().sysfs_path, "devices/virtual/mtty/mtty");
  EXPECT_EQ(parent_->info().class_name, "mtty");
  ASSERT_EQ(parent_->types().size(), 2u);
  EXPECT_EQ(parent_->type_id(type(1)), "mtty-1");
  EXPECT_EQ(parent_->type_id(type(2)), "mtty-2");
  EXPECT_EQ(type(1).pretty_name, "Single port serial");
  EXPECT_EQ(type(2).pretty_name, "Dual port serial");
}

TEST_F(MttyTest, IsThereOnce) {
  MttyDriver other;
  EXPECT_EQ(register_mtty(bus_, other).error(), Errno{EEXIST});
}

TEST_F(MttyTest, TypesShareThePorts) {
  EXPECT_EQ(parent_->available_instances(type(1)), 24u);
  EXPECT_EQ(parent_->available_instances(type(2)), 12u);
  const auto single = create(1);
  ASSERT_TRUE(single);
  EXPECT_EQ(parent_->available_instances(type(1)), 23u);
  EXPECT_EQ(parent_->available_instances(type(2)), 11u);
  ASSERT_TRUE(bus_.remove(*single));
  EXPECT_EQ(parent_->available_instances(type(1)), 24u);
}

TEST_F(MttyTest, NoPortsNoDevice) {
  for (int i = 0; i < 11; ++i) ASSERT_TRUE(create(2));
  ASSERT_TRUE(create(1));
  EXPECT_EQ(create(2).error(), Errno{ENOSPC});
  EXPECT_EQ(parent_->available_instances(type(1)), 1u);
  ASSERT_TRUE(create(1));
  EXPECT_EQ(create(1).error(), Errno{ENOSPC});
}

TEST_F(MttyTest, DevicesSayWhoTheyAre) {
  const auto device = create(1);
  ASSERT_TRUE(device);
  ASSERT_EQ((*device)->attributes.size(), 1u);
  const AttributeGroup& group = (*device)->attributes[0];
  EXPECT_EQ(group.name, "vendor");
  ASSERT_EQ(group.attributes.size(), 1u);
  EXPECT_EQ(group.attributes[0].name, "sample_mdev_dev");
  EXPECT_EQ(group.attributes[0].mode, 0444u);
  EXPECT_EQ(group.attributes[0].show(), "This is MDEV " + (*device)->name() + "\n");
  EXPECT_FALSE(group.attributes[0].store);
}

TEST_F(MttyTest, PortsFollowTheType) {
  const auto device = create(2);
  ASSERT_TRUE(device);
  EXPECT_EQ((*device)->vfio_device()->ops().region_info(1)->size, 8u);
}

}  // namespace
}  // namespace uvfio::mtty
