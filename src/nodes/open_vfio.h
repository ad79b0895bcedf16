// VFIO's open files as nodes of the tree: each passes its requests on to the uapi layer.
#pragma once

#include <memory>
#include <mutex>

#include "nodes/process_caller.h"
#include "nodes/tree.h"
#include "uvfio/vfio.h"

namespace uvfio::nodes {

class OpenContainer final : public OpenNode {
 public:
  OpenContainer(Clients& clients, std::shared_ptr<vfio::Container> container)
      : clients_(clients), container_(std::move(container)) {}
  [[nodiscard]] const std::shared_ptr<vfio::Container>& container() const { return container_; }
  Result<int> ioctl(pid_t thread, std::uint32_t command, std::uint64_t arg) override;
  bool settled(std::uint32_t command) const override;
  Ties ties() const override { return {.group = nullptr, .container = container_.get()}; }

 private:
  Clients& clients_;
  const std::shared_ptr<vfio::Container> container_;
  // Who mapped last: likely to map again, also after the last UNMAP, and found quickly as long as
  // somebody has it.
  std::mutex mutex_;
  std::shared_ptr<memory::AddressSpace> mapper_;
};

class OpenGroup final : public OpenNode {
 public:
  OpenGroup(Clients& clients, std::shared_ptr<vfio::GroupFile> group)
      : clients_(clients), group_(std::move(group)) {}
  [[nodiscard]] const std::shared_ptr<vfio::GroupFile>& group() const { return group_; }
  Result<int> ioctl(pid_t thread, std::uint32_t command, std::uint64_t arg) override;
  // SET_CONTAINER names another of our files.
  bool asks_back(std::uint32_t command) const override;
  // A group's container may be in use by devices that were just closed.
  bool settled(std::uint32_t) const override { return true; }
  Ties ties() const override;

 private:
  Clients& clients_;
  const std::shared_ptr<vfio::GroupFile> group_;
};

class OpenDevice final : public OpenNode {
 public:
  // `place` is kept for as long as the device is open.
  OpenDevice(Clients& clients, std::shared_ptr<vfio::DeviceFile> device,
             std::shared_ptr<const void> place)
      : clients_(clients), place_(std::move(place)), device_(std::move(device)) {}
  [[nodiscard]] const std::shared_ptr<vfio::DeviceFile>& device() const { return device_; }
  Result<std::size_t> read(std::uint64_t position, std::span<std::byte> data) override;
  Result<std::size_t> write(std::uint64_t position, std::span<const std::byte> data) override;
  Result<int> ioctl(pid_t thread, std::uint32_t command, std::uint64_t arg) override;
  // A hot reset names groups.
  bool asks_back(std::uint32_t command) const override;
  Ties ties() const override;

 private:
  Clients& clients_;
  const std::shared_ptr<const void> place_;
  const std::shared_ptr<vfio::DeviceFile> device_;
};

class OpenStream final : public OpenNode {
 public:
  OpenStream(Clients& clients, std::shared_ptr<vfio::MigrationStream> stream,
             std::shared_ptr<const void> place)
      : clients_(clients), place_(std::move(place)), stream_(std::move(stream)) {}
  [[nodiscard]] const std::shared_ptr<vfio::MigrationStream>& stream() const { return stream_; }
  Result<std::size_t> read(std::uint64_t position, std::span<std::byte> data) override;
  Result<std::size_t> write(std::uint64_t position, std::span<const std::byte> data) override;
  Result<int> ioctl(pid_t thread, std::uint32_t command, std::uint64_t arg) override;
  // A device's last close ends its streams.
  bool settled(std::uint32_t) const override { return true; }
  bool settled_data() const override { return true; }
  Ties ties() const override { return {.anything = true}; }

 private:
  Clients& clients_;
  const std::shared_ptr<const void> place_;
  const std::shared_ptr<vfio::MigrationStream> stream_;
};

}  // namespace uvfio::nodes
