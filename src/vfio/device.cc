#include "uvfio/device.h"

#include "iommu/iommu.h"
#include "uvfio/vfio.h"

namespace uvfio::vfio {
namespace {

// VFIO_PIN_PAGES_MAX_ENTRIES: a page full of page pointers.
constexpr std::uint64_t kMaxPinnedPages = memory::kPageSize / sizeof(void*);

}  // namespace

Device::Device(std::string name, unsigned index, std::string sysfs_path,
               std::shared_ptr<Group> group, std::unique_ptr<DeviceOps> ops)
    : name_(std::move(name)),
      index_(index),
      sysfs_path_(std::move(sysfs_path)),
      group_(std::move(group)),
      ops_(std::move(ops)) {}

void Device::get() {
  const std::scoped_lock lock(users_lock_);
  ++users_;
}

void Device::put() {
  const std::scoped_lock lock(users_lock_);
  if (--users_ == 0) users_gone_.notify_all();
}

bool Device::is_open() const {
  const std::scoped_lock lock(iommu_lock_);
  return iommu_ != nullptr;
}

Status Device::open() {
  const std::scoped_lock lock(group_->lock_);
  if (!group_->container_) return fail(EINVAL);
  const std::scoped_lock set_lock(device_set_lock_);
  if (open_count_ == 0) {
    if (auto used = group_->use_container_locked(); !used) return used;
    auto iommu = group_->container_->iommu();
    if (auto* client = ops_->dma_client()) iommu->register_device(*client);
    set_iommu(iommu);
    if (auto opened = ops_->open_device(*this); !opened) {
      release_iommu();
      group_->unuse_container_locked();
      return opened;
    }
  }
  ++open_count_;
  return {};
}

void Device::close() {
  const std::scoped_lock lock(group_->lock_, device_set_lock_);
  if (--open_count_ != 0) return;
  ops_->close_device();
  if (const auto* migration = ops_->migration()) *migration->precopy_info_v2() = false;
  release_iommu();
  group_->unuse_container_locked();
}

void Device::set_iommu(std::shared_ptr<iommu::Iommu> iommu) {
  const std::scoped_lock lock(iommu_lock_);
  iommu_ = std::move(iommu);
}

void Device::release_iommu() {
  std::shared_ptr<iommu::Iommu> iommu;
  {
    const std::scoped_lock lock(iommu_lock_);
    iommu = std::move(iommu_);
  }
  if (auto* client = ops_->dma_client()) iommu->unregister_device(*client);
}

Result<std::shared_ptr<iommu::Iommu>> Device::open_iommu() const {
  const std::scoped_lock lock(iommu_lock_);
  if (!iommu_) return fail(EINVAL);
  return iommu_;
}

Result<PinnedPages> Device::pin_pages(std::uint64_t iova, std::uint64_t pages, Prot prot) {
  if (pages == 0) return fail(EINVAL);
  auto iommu = open_iommu();
  if (!iommu) return std::unexpected(iommu.error());
  if (ops_->dma_client() == nullptr) return fail(EINVAL);
  if (pages > kMaxPinnedPages) return fail(E2BIG);
  PinnedPages pins;
  if (auto pinned = (*iommu)->pin_pages(iova, pages, prot, pins); !pinned) {
    return std::unexpected(pinned.error());
  }
  pins.iommu_ = std::move(*iommu);
  pins.iova_ = iova;
  pins.pages_ = pages;
  return pins;
}

Status Device::dma_read(std::uint64_t iova, std::span<std::byte> data) {
  if (data.empty()) return fail(EINVAL);
  auto iommu = open_iommu();
  if (!iommu) return std::unexpected(iommu.error());
  return (*iommu)->dma_read(iova, data);
}

Status Device::dma_write(std::uint64_t iova, std::span<const std::byte> data) {
  if (data.empty()) return fail(EINVAL);
  auto iommu = open_iommu();
  if (!iommu) return std::unexpected(iommu.error());
  return (*iommu)->dma_write(iova, data);
}

Result<Dma> Device::dma(const std::atomic<bool>* enabled) {
  auto iommu = open_iommu();
  if (!iommu) return std::unexpected(iommu.error());
  auto path = (*iommu)->dma_path(*iommu, group_->iommu_group(), name_);
  if (!path) return std::unexpected(path.error());
  return Dma(std::move(*path), enabled);
}

DeviceFile::~DeviceFile() {
  device_->close();
  device_->put();
}

}  // namespace uvfio::vfio
