#include "base/event_signal.h"

#include <fcntl.h>
#include <linux/aio_abi.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>

#include "uvfio/fd.h"

namespace uvfio {
namespace {

// Linux AIO signals an eventfd upon completion by eventfd_signal(), where write(2) waits for a
// reader if the counter is full. So a read of nothing that completes at once does it. One context
// serves all threads; nobody reads the completions.
class AioSignaller {
 public:
  AioSignaller() {
    constexpr unsigned kEvents = 256;
    nothing_.reset(memfd_create("nothing", MFD_CLOEXEC));
    if (!nothing_ || syscall(SYS_io_setup, kEvents, &context_) != 0) context_ = 0;
  }
  AioSignaller(const AioSignaller&) = delete;

  bool signal(int eventfd) const {
    if (context_ == 0) return false;
    // The ring of completions takes a few hundred. That others empty it at the same time can at
    // worst leave it fuller than it is, until the next time.
    constexpr int kAttempts = 1000;
    for (int attempt = 0; attempt < kAttempts; ++attempt) {
      iocb request{};
      request.aio_lio_opcode = IOCB_CMD_PREAD;
      request.aio_fildes = static_cast<std::uint32_t>(nothing_.get());
      request.aio_flags = IOCB_FLAG_RESFD;
      request.aio_resfd = static_cast<std::uint32_t>(eventfd);
      iocb* one = &request;
      const bool submitted = syscall(SYS_io_submit, context_, 1, &one) == 1;
      if (!submitted && errno != EAGAIN) return false;  // after a fork, the context is the parent's
      empty_ring();
      if (submitted) return true;
    }
    return false;
  }

 private:
  // struct aio_ring, which io_setup maps at the context's address (io_getevents of libaio relies on
  // it).
  struct Ring {
    std::uint32_t id;
    std::uint32_t nr;
    std::uint32_t head;
    std::uint32_t tail;
    std::uint32_t magic;
    std::uint32_t compat_features;
    std::uint32_t incompat_features;
    std::uint32_t header_length;
  };
  static_assert(sizeof(Ring) == 32);

  void empty_ring() const {
    auto* ring = reinterpret_cast<Ring*>(context_);
    std::atomic_ref(ring->head)
        .store(std::atomic_ref(ring->tail).load(std::memory_order_acquire),
               std::memory_order_release);
  }

  Fd nothing_;
  aio_context_t context_ = 0;
};

const AioSignaller& signaller() {
  static const AioSignaller only;
  return only;
}

}  // namespace

bool signal_without_waiting(int eventfd) { return signaller().signal(eventfd); }
void prepare_to_signal() { signaller(); }

}  // namespace uvfio
