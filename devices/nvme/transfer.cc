#include "devices/nvme/transfer.h"

#include <algorithm>
#include <climits>

namespace uvfio::nvme {
namespace {

constexpr std::uint64_t kPage = 4096;

}  // namespace

bool copy_to_host(vfio::Dma& dma, std::span<const Segment> segments,
                  std::span<const std::byte> data) {
  for (const Segment& segment : segments) {
    const auto piece = data.first(std::min<std::uint64_t>(segment.size, data.size()));
    if (piece.empty()) break;
    if (!dma.write(segment.iova, piece)) return false;
    data = data.subspan(piece.size());
  }
  return true;
}

bool copy_from_host(vfio::Dma& dma, std::span<const Segment> segments, std::span<std::byte> data) {
  for (const Segment& segment : segments) {
    const auto piece = data.first(std::min<std::uint64_t>(segment.size, data.size()));
    if (piece.empty()) break;
    if (!dma.read(segment.iova, piece)) return false;
    data = data.subspan(piece.size());
  }
  return true;
}

// 0 or an errno.
int Transfer::hold(vfio::Dma& dma, const Segment& segment, vfio::Prot prot) {
  const auto take = [&](std::uint64_t iova, std::uint64_t size) {
    auto held = dma.hold(iova, size, prot);
    if (!held) return value(held.error());
    std::byte* const data = held->data();
    // What is together in this process, too, goes as one piece.
    if (!vectors_.empty() &&
        static_cast<std::byte*>(vectors_.back().iov_base) + vectors_.back().iov_len == data) {
      vectors_.back().iov_len += size;
    } else {
      vectors_.push_back({data, size});
    }
    holds_.push_back(std::move(*held));
    return 0;
  };
  const int error = take(segment.iova, segment.size);
  if (error != EOPNOTSUPP) return error;
  // Neighbours may be in two mappings, whose border is a page's.
  const std::uint64_t end = segment.iova + segment.size;
  for (std::uint64_t at = segment.iova; at != end;) {
    const std::uint64_t run = std::min(kPage - at % kPage, end - at);
    if (run == segment.size) return error;
    if (const int failed = take(at, run); failed != 0) return failed;
    at += run;
  }
  return 0;
}

CommandStatus Transfer::map(vfio::Dma& dma, std::uint64_t size, Direction direction) {
  direction_ = direction;
  const vfio::Prot prot = direction == Direction::from_host ? vfio::Prot::read : vfio::Prot::write;
  int error = 0;
  for (const Segment& segment : segments_) {
    error = hold(dma, segment, prot);
    if (error == 0 && vectors_.size() > IOV_MAX) error = EOPNOTSUPP;  // too scattered
    if (error != 0) break;
  }
  if (error == 0) return CommandStatus::success;
  holds_.clear();
  vectors_.clear();
  if (error != EOPNOTSUPP) return CommandStatus::data_transfer_error;

  use_buffer(size);
  if (direction == Direction::from_host && !copy_from_host(dma, segments_, buffer())) {
    release();
    return CommandStatus::data_transfer_error;
  }
  return CommandStatus::success;
}

void Transfer::use_buffer(std::uint64_t size) {
  bounce_ = std::make_unique_for_overwrite<std::byte[]>(size);
  size_ = size;
  vectors_.assign(1, {bounce_.get(), size});
}

bool Transfer::advance(std::uint64_t bytes) {
  while (first_ < vectors_.size() && bytes >= vectors_[first_].iov_len) {
    bytes -= vectors_[first_].iov_len;
    ++first_;
  }
  if (first_ == vectors_.size()) return true;
  iovec& next = vectors_[first_];
  next.iov_base = static_cast<std::byte*>(next.iov_base) + bytes;
  next.iov_len -= bytes;
  return false;
}

bool Transfer::finish(vfio::Dma& dma) {
  if (direction_ != Direction::to_host || !bounce_) return true;
  return copy_to_host(dma, segments_, buffer());
}

void Transfer::release() {
  segments_.clear();
  holds_.clear();
  vectors_.clear();
  first_ = 0;
  bounce_.reset();
  size_ = 0;
  direction_ = Direction::from_host;
}

}  // namespace uvfio::nvme
