#include "devices/nvme/nvme.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "base/log.h"
#include "devices/nvme/disk.h"
#include "pci/function.h"
#include "uvfio/fd.h"
#include "vfio_pci/device.h"

namespace uvfio::nvme {
namespace {

constexpr std::uint64_t kGiB = 1ULL << 30;

struct NvmeType {
  const char* sysfs_name;
  const char* pretty_name;
  std::uint64_t size;
};

constexpr std::array<NvmeType, 4> kTypes{{
    {"1G", "NVMe disk of 1 GiB", kGiB},
    {"4G", "NVMe disk of 4 GiB", 4 * kGiB},
    {"16G", "NVMe disk of 16 GiB", 16 * kGiB},
    {"64G", "NVMe disk of 64 GiB", 64 * kGiB},
}};
constexpr unsigned kMostDisks = 256;
constexpr unsigned kIoQueues = 16;

// nullptr: no such type.
const NvmeType* find(const mdev::Type& type) {
  const auto* const known = std::ranges::find_if(
      kTypes, [&](const NvmeType& each) { return type.sysfs_name == each.sysfs_name; });
  return known == kTypes.end() ? nullptr : known;
}

std::string temporary_directory() {
  const char* const directory = std::getenv("TMPDIR");
  return directory != nullptr && *directory != 0 ? directory : "/var/tmp";
}

// A file of `size` bytes. `keep`: there may be one already; else it has lost its name on return.
Result<Fd> prepare(const std::string& path, std::uint64_t size, bool keep) {
  Fd file(
      open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | (keep ? 0 : O_EXCL), 0600));
  if (!file) return fail(errno);
  if (!keep) unlink(path.c_str());
  struct stat status {};
  if (fstat(file.get(), &status) != 0) return fail(errno);
  if (!S_ISREG(status.st_mode)) {
    spdlog::error("nvme: {} is no file", path);
    return fail(EINVAL);
  }
  if (status.st_size == 0) {
    if (ftruncate(file.get(), static_cast<off_t>(size)) != 0) return fail(errno);
  } else if (static_cast<std::uint64_t>(status.st_size) != size) {
    spdlog::error("nvme: {} has {} bytes, and the disk's type {}", path, status.st_size, size);
    return fail(EINVAL);
  }
  return file;
}

// Of a device: as much of its UUID as a serial number holds.
std::string serial_of(const mdev::Device& device) {
  std::string serial = device.name();
  std::erase(serial, '-');
  serial.resize(20);
  return serial;
}

}  // namespace

NvmeDriver::NvmeDriver(std::string directory)
    : keep_(!directory.empty()), directory_(keep_ ? std::move(directory) : temporary_directory()) {}

// What is free, less what the disks there are may still grow.
std::uint64_t NvmeDriver::free_locked() const {
  struct statvfs status {};
  if (statvfs(directory_.c_str(), &status) != 0) return 0;
  const std::uint64_t free = status.f_bavail * std::uint64_t{status.f_frsize};
  std::uint64_t promised = 0;
  for (const auto& [uuid, size] : sizes_) promised += size;
  return free - std::min(free, promised);
}

std::optional<unsigned> NvmeDriver::get_available(const mdev::Parent&, const mdev::Type& type) {
  const NvmeType* const known = find(type);
  if (known == nullptr) return 0;
  const std::lock_guard lock(mutex_);
  return static_cast<unsigned>(
      std::min<std::uint64_t>(free_locked() / known->size, kMostDisks - sizes_.size()));
}

std::optional<std::string> NvmeDriver::show_description(const mdev::Type& type) {
  const NvmeType* const known = find(type);
  if (known == nullptr) return std::nullopt;
  return fmt::format("NVMe 1.4 controller with {} I/O queues and one namespace of {} bytes\n",
                     kIoQueues, known->size);
}

Result<std::unique_ptr<vfio::DeviceOps>> NvmeDriver::probe(mdev::Device& device) {
  const NvmeType* const type = find(device.type());
  if (type == nullptr) return fail(EINVAL);
  if (struct statvfs status{}; statvfs(directory_.c_str(), &status) != 0) {
    const int error = errno;
    spdlog::error("nvme: {}: {}", directory_, strerror(error));
    return fail(error);
  }
  {
    const std::lock_guard lock(mutex_);
    if (sizes_.size() >= kMostDisks || free_locked() < type->size) return fail(ENOSPC);
    sizes_[device.uuid()] = type->size;
  }
  const auto give_up = [&](int error) {
    remove(device);
    return fail(error);
  };
  const std::string path = fmt::format("{}/{}.img", directory_, device.name());
  const auto file = prepare(path, type->size, keep_);
  if (!file) return give_up(value(file.error()));
  const std::string name = keep_ ? path : fmt::format("/proc/self/fd/{}", file->get());
  auto disk = Disk::create({.files = {name}, .io_queues = kIoQueues, .serial = serial_of(device)});
  if (!disk) {
    spdlog::error("nvme: {}", disk.error());
    return give_up(EBUSY);
  }
  auto function = pci::Function::create(std::move(*disk));
  if (!function) return give_up(value(function.error()));
  return std::make_unique<vfio_pci::VfioPciDevice>(std::move(*function));
}

void NvmeDriver::remove(mdev::Device& device) {
  const std::lock_guard lock(mutex_);
  sizes_.erase(device.uuid());
}

mdev::ParentInfo NvmeDriver::parent_info() {
  mdev::ParentInfo info{.name = "nvme",
                        .driver_name = "nvme",
                        .sysfs_path = "devices/virtual/nvme/nvme",
                        .class_name = "nvme",
                        .types = {},
                        .attributes = {}};
  for (const NvmeType& type : kTypes) info.types.push_back({type.sysfs_name, type.pretty_name});
  return info;
}

Result<std::shared_ptr<mdev::Parent>> register_nvme(mdev::Bus& bus, NvmeDriver& driver) {
  if (const Status status = bus.register_driver(driver); !status) {
    return std::unexpected(status.error());
  }
  auto parent = bus.register_parent(NvmeDriver::parent_info(), driver);
  if (!parent) bus.unregister_driver(driver);
  return parent;
}

}  // namespace uvfio::nvme
