// The address space of another process.
#pragma once

#include <sys/resource.h>
#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "memory/remote_memory.h"
#include "memory/window.h"
#include "uvfio/memory.h"

namespace uvfio::memory {

// Thread-safe.
class ProcessAddressSpace final : public AddressSpace {
 public:
  // What `tid`, a thread of `thread_group`, runs in now. ESRCH, EACCES, EMFILE and such.
  [[nodiscard]] static Result<std::shared_ptr<ProcessAddressSpace>> open(pid_t thread_group,
                                                                         pid_t tid);

  // Is this still what `tid` runs in? The thread must be one of the thread group that is known by
  // this object's number now, which may be another than the one that the object was made for.
  [[nodiscard]] bool is_of(pid_t tid) const;

  [[nodiscard]] bool alive() const override { return memory_.alive(); }
  [[nodiscard]] std::string name() const override {
    return "process " + std::to_string(thread_group_);
  }
  [[nodiscard]] Status read(std::uint64_t vaddr, std::span<std::byte> data) override {
    return memory_.read(vaddr, data);
  }
  [[nodiscard]] Status write(std::uint64_t vaddr, std::span<const std::byte> data) override {
    return memory_.write(vaddr, data);
  }
  [[nodiscard]] Status check(std::uint64_t vaddr, std::uint64_t size, bool write) override {
    return memory_.maps().check(vaddr, size, write);
  }
  [[nodiscard]] Result<View> view(std::uint64_t vaddr, std::uint64_t size, bool write) override;
  [[nodiscard]] std::uint64_t lock_limit() const override;

 private:
  // Neighbouring shared mappings of one file that continue each other.
  struct Run {
    WindowCache::File file;
    FileRange range;
    Vma first;  // `range.offset` lies at `first.begin`
  };

  ProcessAddressSpace(pid_t thread_group, Fd directory, RemoteMemory memory, std::string auxv)
      : thread_group_(thread_group),
        directory_(std::move(directory)),
        memory_(std::move(memory)),
        auxv_(std::move(auxv)) {}

  void sample_locked(int thread);
  [[nodiscard]] Fd other_thread() const;
  [[nodiscard]] Result<Run> find_run(std::uint64_t vaddr, std::uint64_t size, bool write) const;
  [[nodiscard]] Result<std::shared_ptr<Window>> make_window(const Run& run) const;

  const pid_t thread_group_;
  const Fd directory_;  // /proc/<thread group>: tied to the process, and empty once it is reaped
  const RemoteMemory memory_;
  const std::string auxv_;                // as the kernel saved it upon exec; see is_of
  rlim_t sampled_limit_ = RLIM_INFINITY;  // RLIMIT_MEMLOCK in bytes
  std::uint64_t locked_by_client_ = 0;    // pages
  mutable std::atomic<bool> may_ask_limit_{true};

  std::mutex windows_mutex_;
  WindowCache windows_;
};

}  // namespace uvfio::memory
