// A client that came through FUSE, as the uapi layer wants to see it.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <memory>

#include "memory/process.h"
#include "nodes/fuse_server.h"
#include "uapi/caller.h"

namespace uvfio::nodes {

// What all clients of one server share.
struct Clients {
  FuseServer& server;
  memory::ProcessTable processes{};
  std::atomic<bool> install_refused{false};  // said so already
};

// The thread `thread`, which is blocked in the request that this object is made for.
class ProcessCaller final : public uapi::Caller {
 public:
  ProcessCaller(Clients& clients, pid_t thread) : clients_(clients), thread_(thread) {}

  Result<Fd> get(int fd) override;
  Status copy_in(std::uint64_t user, std::span<std::byte> data) override;
  Status copy_out(std::uint64_t user, std::span<const std::byte> data) override;
  // Both only from a thread of its own (OpenNode::asks_back): the answer comes through a worker.
  Result<std::shared_ptr<vfio::Container>> container(int fd) override;
  Result<std::shared_ptr<vfio::GroupFile>> group(int fd) override;
  Result<std::shared_ptr<memory::AddressSpace>> address_space() override;
  // What address_space() has found, or nullptr.
  [[nodiscard]] std::shared_ptr<memory::AddressSpace> used_space() { return std::move(space_); }
  bool can_lock_memory() override;
  bool can_mmap() const override { return clients_.server.passthrough().available(); }
  // EOPNOTSUPP: FUSE cannot give a client a descriptor. The launcher's supervisor takes these
  // ioctls before they come here.
  Result<int> install(std::shared_ptr<vfio::DeviceFile> file) override;
  Result<int> install(std::shared_ptr<vfio::MigrationStream> stream, bool readable) override;

 private:
  std::unexpected<Errno> refuse_install();
  // The node behind a descriptor; what is none of ours: EBADFD.
  Result<std::shared_ptr<OpenNode>> node(int fd);

  Clients& clients_;
  const pid_t thread_;
  std::shared_ptr<memory::AddressSpace> space_;
};

}  // namespace uvfio::nodes
