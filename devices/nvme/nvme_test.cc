#include "devices/nvme/nvme.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdlib>
#include <filesystem>

#include "uvfio/host.h"

namespace uvfio::nvme {
namespace {

class Parent : public ::testing::Test {
 protected:
  Parent() {
    std::string pattern = ::testing::TempDir() + "/nvme-XXXXXX";
    directory_ = mkdtemp(pattern.data());
  }
  ~Parent() override {
    if (parent_) host_.mdev().unregister_parent(parent_);
    if (driver_) host_.mdev().unregister_driver(*driver_);
    std::filesystem::remove_all(directory_);
  }
  void register_driver(const std::string& directory) {
    driver_.emplace(directory);
    auto parent = register_nvme(host_.mdev(), *driver_);
    ASSERT_TRUE(parent);
    parent_ = std::move(*parent);
  }
  [[nodiscard]] const mdev::Type& type(std::string_view name) const {
    for (const mdev::Type& each : parent_->types()) {
      if (each.sysfs_name == name) return each;
    }
    std::abort();
  }

  std::string directory_;
  Host host_;
  std::optional<NvmeDriver> driver_;
  std::shared_ptr<mdev::Parent> parent_;
};

TEST_F(Parent, DisksAreFilesThatStay) {
  register_driver(directory_);
  const unsigned before = parent_->available_instances(type("1G"));
  ASSERT_GT(before, 0U);
  const Uuid uuid = Uuid::random();
  auto device = host_.mdev().create(parent_, type("1G"), uuid);
  ASSERT_TRUE(device);
  const std::string file = directory_ + "/" + (*device)->name() + ".img";
  EXPECT_EQ(std::filesystem::file_size(file), 1U << 30);
  EXPECT_LT(parent_->available_instances(type("1G")), before);
  ASSERT_TRUE(host_.mdev().remove(*device));
  EXPECT_TRUE(std::filesystem::exists(file));
  // Found again, but not as a disk of another size.
  const auto other = host_.mdev().create(parent_, type("4G"), uuid);
  ASSERT_FALSE(other);
  EXPECT_EQ(other.error(), Errno{EINVAL});
  device = host_.mdev().create(parent_, type("1G"), uuid);
  ASSERT_TRUE(device);
  ASSERT_TRUE(host_.mdev().remove(*device));
}

TEST_F(Parent, WithoutADirectoryDisksHaveNoNames) {
  ASSERT_EQ(setenv("TMPDIR", directory_.c_str(), 1), 0);
  register_driver({});
  unsetenv("TMPDIR");
  auto device = host_.mdev().create(parent_, type("1G"), Uuid::random());
  ASSERT_TRUE(device);
  EXPECT_TRUE(std::filesystem::is_empty(directory_));
  ASSERT_TRUE(host_.mdev().remove(*device));
}

TEST_F(Parent, DevicesAreNvmeControllers) {
  register_driver(directory_);
  EXPECT_EQ(driver_->device_api(), "vfio-pci");
  EXPECT_TRUE(driver_->show_description(type("64G"))->contains("68719476736"));
  auto device = host_.mdev().create(parent_, type("1G"), Uuid::random());
  ASSERT_TRUE(device);
  {
    const auto container = host_.vfio().open_container();
    auto group = host_.vfio().find_group((*device)->vfio_device()->group().id())->open();
    ASSERT_TRUE(group);
    ASSERT_TRUE((*group)->set_container(container));
    ASSERT_TRUE(container->set_iommu(VFIO_TYPE1v2_IOMMU));
    const auto file = vfio::GroupFile::get_device(*group, (*device)->name());
    ASSERT_TRUE(file);
    vfio::DeviceOps& ops = (*file)->ops();
    const auto config = ops.region_info(VFIO_PCI_CONFIG_REGION_INDEX);
    ASSERT_TRUE(config);
    std::array<std::uint8_t, 3> code{};
    ASSERT_TRUE(ops.read(config->offset + 9, std::as_writable_bytes(std::span(code))));
    EXPECT_EQ(code, (std::array<std::uint8_t, 3>{0x02, 0x08, 0x01}));
    const auto bar = ops.region_info(VFIO_PCI_BAR0_REGION_INDEX);
    ASSERT_TRUE(bar);
    EXPECT_EQ(bar->size, 0x4000U);
    const auto msix = ops.irq_info(VFIO_PCI_MSIX_IRQ_INDEX);
    ASSERT_TRUE(msix);
    EXPECT_EQ(msix->count, 17U);
    // Memory decoding is off until the client turns it on.
    const std::array<std::uint8_t, 2> memory_and_master{0x06, 0x00};
    ASSERT_TRUE(ops.write(config->offset + 4, std::as_bytes(std::span(memory_and_master))));
    std::uint32_t version = 0;
    ASSERT_TRUE(ops.read(bar->offset + 8, std::as_writable_bytes(std::span(&version, 1))));
    EXPECT_EQ(version, 0x00010400U);
  }
  ASSERT_TRUE(host_.mdev().remove(*device));
}

}  // namespace
}  // namespace uvfio::nvme
