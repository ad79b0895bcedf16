// The client's memory of one command, as a file operation wants it.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "devices/nvme/data_pointer.h"
#include "uvfio/dma.h"

namespace uvfio::nvme {

// Which way the data goes, seen from the host.
enum class Direction : std::uint8_t { from_host, to_host };

// Holds the client's memory itself where that can be, so that the file is read or written without a
// copy; else a buffer of its own, which is copied from the client by map() and to it by finish().
class Transfer {
 public:
  Transfer() = default;
  Transfer(const Transfer&) = delete;

  // What segments() says, `size` bytes in all. data_transfer_error: memory that the device may not
  // reach. Nothing is held on failure.
  [[nodiscard]] CommandStatus map(vfio::Dma& dma, std::uint64_t size, Direction direction);
  // A buffer of this class instead of the client's memory.
  void use_buffer(std::uint64_t size);

  // Filled by the caller, before map().
  [[nodiscard]] std::vector<Segment>& segments() { return segments_; }
  [[nodiscard]] std::span<const iovec> vectors() const {
    return std::span(vectors_).subspan(first_);
  }
  // `bytes` of vectors() are done; true: all of them.
  bool advance(std::uint64_t bytes);

  // The data has arrived: true if the client has it.
  [[nodiscard]] bool finish(vfio::Dma& dma);
  // The buffer of use_buffer().
  [[nodiscard]] std::span<std::byte> buffer() const { return {bounce_.get(), size_}; }

  // Lets go of everything.
  void release();

 private:
  [[nodiscard]] int hold(vfio::Dma& dma, const Segment& segment, vfio::Prot prot);

  std::vector<Segment> segments_;
  std::vector<vfio::Dma::Hold> holds_;
  std::vector<iovec> vectors_;
  std::size_t first_ = 0;  // vectors before it are done
  std::unique_ptr<std::byte[]> bounce_;
  std::uint64_t size_ = 0;
  Direction direction_ = Direction::from_host;
};

// Copies between `segments` and `data`, as much as `data` has. False: memory that cannot be
// reached.
[[nodiscard]] bool copy_to_host(vfio::Dma& dma, std::span<const Segment> segments,
                                std::span<const std::byte> data);
[[nodiscard]] bool copy_from_host(vfio::Dma& dma, std::span<const Segment> segments,
                                  std::span<std::byte> data);

}  // namespace uvfio::nvme
