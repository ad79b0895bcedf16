// The address space of this process.
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>

#include "memory/process.h"
#include "memory/vma.h"
#include "uvfio/memory.h"

namespace uvfio::memory {
namespace {

class OwnAddressSpace final : public AddressSpace {
 public:
  [[nodiscard]] bool alive() const override { return true; }
  [[nodiscard]] std::string name() const override { return "process " + std::to_string(getpid()); }

  // Through the kernel rather than by memcpy: a bad address is an error then, not the end of us.
  [[nodiscard]] Status read(std::uint64_t vaddr, std::span<std::byte> data) override {
    return copy_from_thread(getpid(), vaddr, data);
  }
  [[nodiscard]] Status write(std::uint64_t vaddr, std::span<const std::byte> data) override {
    return copy_to_thread(getpid(), vaddr, data);
  }

  [[nodiscard]] Status check(std::uint64_t vaddr, std::uint64_t size, bool write) override {
    const auto reader = maps();
    return reader ? (*reader)->check(vaddr, size, write) : std::unexpected(reader.error());
  }

  [[nodiscard]] Result<View> view(std::uint64_t vaddr, std::uint64_t size, bool write) override {
    if (size == 0) return fail(EFAULT);
    if (const auto ok = check(vaddr, size, write); !ok) return std::unexpected(ok.error());
    return View{.host = reinterpret_cast<std::byte*>(vaddr), .owner = nullptr};
  }

  [[nodiscard]] std::uint64_t lock_limit() const override {
    rlimit limit{};
    if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) {
      return AddressSpace::lock_limit();
    }
    return limit.rlim_cur >> kPageShift;
  }

 private:
  // A forked child inherits this object, but the descriptor in it shows the parent's memory. Such a
  // one is kept, not freed: another thread may have been using it.
  struct Generation {
    pid_t pid;
    VmaReader reader;
    Generation* previous;
  };

  [[nodiscard]] Result<const VmaReader*> maps() {
    Generation* now = generation_.load(std::memory_order_acquire);
    const pid_t pid = getpid();
    if (now != nullptr && now->pid == pid) return &now->reader;
    Fd file(open("/proc/self/maps", O_RDONLY | O_CLOEXEC));
    if (!file) return fail(errno);
    auto* const made = new Generation{pid, VmaReader(std::move(file)), now};
    if (generation_.compare_exchange_strong(now, made, std::memory_order_acq_rel)) {
      return &made->reader;
    }
    delete made;
    return &now->reader;  // another thread of this very process was quicker
  }

  std::atomic<Generation*> generation_{nullptr};
};

}  // namespace

std::shared_ptr<AddressSpace> this_process() {
  // Never destroyed: devices may still run while the process exits.
  static const auto* const space =
      new std::shared_ptr<AddressSpace>(std::make_shared<OwnAddressSpace>());
  return *space;
}

}  // namespace uvfio::memory
