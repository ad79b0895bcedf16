// The NVM command set (chapter 6), and Format NVM, which does I/O as well.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "devices/nvme/features.h"
#include "devices/nvme/health.h"
#include "devices/nvme/namespace.h"
#include "devices/nvme/request.h"
#include "devices/nvme/ring.h"
#include "uvfio/dma.h"

namespace uvfio::nvme {

inline constexpr unsigned kMdts = 8;                             // 2 ^ n pages of 4 KiB
inline constexpr std::uint64_t kMaxTransfer = 4096ULL << kMdts;  // bytes

using Namespaces = std::vector<std::unique_ptr<Namespace>>;

// Carries commands out: starts their operations and goes on when these end. One thread's.
class IoCommands {
 public:
  // All outlive this. `finished` is called once for each request, also from inside execute().
  IoCommands(Namespaces& namespaces, Ring& ring, const Features& features, Health& health,
             std::function<void(Request&)> finished)
      : namespaces_(namespaces),
        ring_(ring),
        features_(features),
        health_(health),
        finished_(std::move(finished)) {}

  // The way to host memory, from enabling the controller to its reset.
  void connect(vfio::Dma dma, std::uint64_t page_size) {
    dma_ = std::move(dma);
    page_size_ = page_size;
  }
  void disconnect() { dma_ = {}; }

  void execute(Request& request);
  // `format` is an index of kLbaShifts.
  void format(Request& request, unsigned format);

  // nullptr: no such namespace.
  [[nodiscard]] Namespace* find(std::uint32_t nsid) const;

 private:
  friend struct Request;
  CommandStatus start(Request& request);
  CommandStatus read_or_write(Request& request);
  CommandStatus compare(Request& request);
  CommandStatus compare_data(Request& request);
  CommandStatus verify(Request& request);
  CommandStatus verify_more(Request& request);
  CommandStatus flush(Request& request);
  CommandStatus write_zeroes(Request& request);
  CommandStatus zeroes_punched(Request& request);
  CommandStatus zero_more(Request& request);
  CommandStatus zeroes_written(Request& request);
  CommandStatus dataset_management(Request& request);
  CommandStatus deallocate_more(Request& request);

  CommandStatus use_blocks(Request& request);
  CommandStatus find_data_of(Request& request);
  void move(Request& request, Request::Move direction);
  void punch(Request& request, Namespace& target, std::uint64_t offset, std::uint64_t size);
  void sync(Request& request, Namespace& target);
  void operation_done(Request& request, int result);
  void go_on(Request& request);
  void finish(Request& request);
  CommandStatus status_of(Request& request);

  [[nodiscard]] bool formats(const Namespace& target) const;
  void begin_format();
  CommandStatus format_punched(Request& request);
  CommandStatus format_done(Request& request);

  Namespaces& namespaces_;
  Ring& ring_;
  const Features& features_;
  Health& health_;
  std::function<void(Request&)> finished_;
  vfio::Dma dma_;
  std::uint64_t page_size_ = 4096;

  struct Format {
    Request* request = nullptr;  // nullptr: none
    unsigned format = 0;
    bool begun = false;
  } format_;
};

}  // namespace uvfio::nvme
