#include "devices/ioat/transfer.h"

#include <algorithm>
#include <cstring>

#include "devices/ioat/registers.h"

namespace uvfio::ioat {

namespace {

constexpr std::size_t kPiece = 64 * 1024;

bool not_master(const Status& status) { return !status && value(status.error()) == EACCES; }

// Not: it can only be copied, or there is no bus master.
bool faulted(const auto& window) {
  return !window && window.error() != Errno{EOPNOTSUPP} && window.error() != Errno{EACCES};
}

bool in_one_page(std::uint64_t iova, std::uint64_t size) {
  return iova % memory::kPageSize + size <= memory::kPageSize;
}

// Calls access(offset, run) for each page of [iova, iova + size).
template <typename Access>
Moved for_each_page(std::uint64_t iova, std::size_t size, Access&& access) {
  for (std::size_t offset = 0; offset < size;) {
    const std::size_t in_page = (iova + offset) % memory::kPageSize;
    const std::size_t run = std::min(size - offset, memory::kPageSize - in_page);
    if (const Moved moved = access(offset, run); moved != Moved::done) return moved;
    offset += run;
  }
  return Moved::done;
}

}  // namespace

Moved Transfer::read(std::uint64_t iova, std::span<std::byte> data) {
  const Status whole = source_.read(iova, data);
  if (whole) return Moved::done;
  if (not_master(whole)) return Moved::not_master;
  return read_what_is_there(iova, data, in_one_page(iova, data.size()));
}

Moved Transfer::read_what_is_there(std::uint64_t iova, std::span<std::byte> data, bool nothing) {
  if (faults_ == Faults::report) return Moved::read_fault;
  if (nothing) {
    std::ranges::fill(data, std::byte{0xff});
    return Moved::done;
  }
  return for_each_page(iova, data.size(), [&](std::size_t offset, std::size_t run) {
    const auto piece = data.subspan(offset, run);
    const Status status = source_.read(iova + offset, piece);
    if (not_master(status)) return Moved::not_master;
    if (!status) std::ranges::fill(piece, std::byte{0xff});
    return Moved::done;
  });
}

Moved Transfer::write(std::uint64_t iova, std::span<const std::byte> data) {
  const Status whole = destination_.write(iova, data);
  if (whole) return Moved::done;
  if (not_master(whole)) return Moved::not_master;
  return write_what_can_be(iova, data, in_one_page(iova, data.size()));
}

Moved Transfer::write_what_can_be(std::uint64_t iova, std::span<const std::byte> data,
                                  bool nothing) {
  if (faults_ == Faults::report) return Moved::write_fault;
  if (nothing) return Moved::done;
  return for_each_page(iova, data.size(), [&](std::size_t offset, std::size_t run) {
    const Status status = destination_.write(iova + offset, data.subspan(offset, run));
    return not_master(status) ? Moved::not_master : Moved::done;
  });
}

Moved Transfer::copy(std::uint64_t source, std::uint64_t destination, std::uint64_t size) {
  // A fault of either is recorded: it is not to be found once more.
  bool read_faulted = false;
  bool write_faulted = false;
  {
    const auto from = source_.translate(source, size, vfio::Prot::read);
    read_faulted = faulted(from);
    if (from) {
      const auto to = destination_.translate(destination, size, vfio::Prot::write);
      write_faulted = faulted(to);
      if (to) {
        std::memmove(to->data(), from->data(), size);
        return Moved::done;
      }
    }
  }
  // Backwards where the destination overlaps the end of the source.
  const bool backwards = destination > source && destination - source < size;
  bounce_.resize(kPiece);
  for (std::uint64_t moved_bytes = 0; moved_bytes < size;) {
    const std::uint64_t run = std::min<std::uint64_t>(kPiece, size - moved_bytes);
    const std::uint64_t at = backwards ? size - moved_bytes - run : moved_bytes;
    const auto piece = std::span(bounce_).first(run);
    Moved moved = read_faulted ? read_what_is_there(source + at, piece, in_one_page(source, size))
                               : read(source + at, piece);
    if (moved != Moved::done) return moved;
    moved = write_faulted
                ? write_what_can_be(destination + at, piece, in_one_page(destination, size))
                : write(destination + at, piece);
    if (moved != Moved::done) return moved;
    moved_bytes += run;
  }
  return Moved::done;
}

Moved Transfer::fill(std::uint64_t pattern, std::uint64_t destination, std::uint64_t size) {
  static_assert(kPiece % sizeof pattern == 0);
  bounce_.resize(kPiece);
  for (std::size_t at = 0; at < std::min<std::uint64_t>(kPiece, size); at += sizeof pattern)
    std::memcpy(bounce_.data() + at, &pattern, sizeof pattern);
  for (std::uint64_t at = 0; at < size;) {
    const auto piece = std::span(bounce_).first(std::min<std::uint64_t>(kPiece, size - at));
    if (const Moved moved = write(destination + at, piece); moved != Moved::done) return moved;
    at += piece.size();
  }
  return Moved::done;
}

}  // namespace uvfio::ioat
