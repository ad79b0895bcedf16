// A uapi caller without a process: an arena of bytes is its memory, a table its descriptors.
#pragma once

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <variant>
#include <vector>

#include "tests/support/fake_address_space.h"
#include "uapi/caller.h"
#include "uapi/ioctl.h"

namespace uvfio::testing {

class ArenaCaller final : public uapi::Caller {
 public:
  static constexpr std::uint64_t kBase = 0x100000;

  explicit ArenaCaller(
      std::size_t size = 1 << 20,
      std::shared_ptr<FakeAddressSpace> memory = std::make_shared<FakeAddressSpace>(0, 1 << 20))
      : arena(size), space(std::move(memory)) {}

  Status copy_in(std::uint64_t user, std::span<std::byte> data) override {
    if (!contains(user, data.size())) return fail(EFAULT);
    std::ranges::copy(std::span(arena).subspan(user - kBase, data.size()), data.begin());
    return {};
  }
  Status copy_out(std::uint64_t user, std::span<const std::byte> data) override {
    if (!contains(user, data.size())) return fail(EFAULT);
    std::ranges::copy(data, arena.begin() + static_cast<std::ptrdiff_t>(user - kBase));
    return {};
  }
  Result<Fd> get(int fd) override {
    const auto found = files.find(fd);
    if (found == files.end()) return fail(EBADF);
    return found->second.duplicate();
  }
  Result<std::shared_ptr<vfio::Container>> container(int fd) override {
    if (const auto found = containers.find(fd); found != containers.end()) return found->second;
    if (files.contains(fd) || devices.contains(fd)) return fail(EBADFD);
    return fail(EBADF);
  }
  Result<std::shared_ptr<vfio::GroupFile>> group(int fd) override {
    if (const auto found = groups.find(fd); found != groups.end()) return found->second;
    if (files.contains(fd) || devices.contains(fd) || containers.contains(fd)) return fail(EINVAL);
    return fail(EBADF);
  }
  Result<std::shared_ptr<memory::AddressSpace>> address_space() override { return space; }
  bool can_lock_memory() override { return false; }
  bool can_mmap() const override { return mmap; }
  Result<int> install(std::shared_ptr<vfio::DeviceFile> file) override {
    devices.emplace(next_fd, std::move(file));
    return next_fd++;
  }
  Result<int> install(std::shared_ptr<vfio::MigrationStream> stream, bool) override {
    streams.emplace(next_fd, std::move(stream));
    return next_fd++;
  }

  // Puts `value` at the start of the arena, or at `offset`; returns its user address.
  template <typename T>
  std::uint64_t put(const T& value, std::size_t offset = 0) {
    std::memcpy(arena.data() + offset, &value, sizeof value);
    return kBase + offset;
  }
  template <typename T>
  T at(std::size_t offset = 0) const {
    T value;
    std::memcpy(&value, arena.data() + offset, sizeof value);
    return value;
  }
  [[nodiscard]] std::uint64_t end() const { return kBase + arena.size(); }

  std::vector<std::byte> arena;
  std::shared_ptr<FakeAddressSpace> space;  // what it maps for devices
  std::map<int, Fd> files;
  std::map<int, std::shared_ptr<vfio::Container>> containers;
  std::map<int, std::shared_ptr<vfio::GroupFile>> groups;
  std::map<int, std::shared_ptr<vfio::DeviceFile>> devices;
  std::map<int, std::shared_ptr<vfio::MigrationStream>> streams;
  int next_fd = 100;
  bool mmap = true;

 private:
  [[nodiscard]] bool contains(std::uint64_t user, std::size_t size) const {
    return user >= kBase && size <= arena.size() && user - kBase <= arena.size() - size;
  }
};

}  // namespace uvfio::testing
