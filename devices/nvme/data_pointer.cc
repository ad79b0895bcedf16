#include "devices/nvme/data_pointer.h"

#include <algorithm>
#include <array>
#include <bit>
#include <span>

namespace uvfio::nvme {
namespace {

// More descriptors than this and a command is malformed: empty data blocks could go on for ever.
constexpr unsigned kMaxSglDescriptors = 65536;
constexpr std::size_t kListChunk = 512;  // entries read at once

void append(std::vector<Segment>& segments, std::uint64_t iova, std::uint64_t size) {
  if (!segments.empty() && segments.back().iova + segments.back().size == iova) {
    segments.back().size += size;
  } else {
    segments.push_back({iova, size});
  }
}

template <typename T>
bool read_list(vfio::Dma& dma, std::uint64_t iova, std::span<T> entries) {
  return dma.read(iova, std::as_writable_bytes(entries)).has_value();
}

// 4.3: the first entry may begin inside a page, all others are whole pages. Two pages fit in the
// command, else the second pointer leads to lists, chained by their last entries.
CommandStatus find_prps(vfio::Dma& dma, const Command& command, std::uint64_t size,
                        std::uint64_t page_size, std::vector<Segment>& segments) {
  const std::uint64_t in_page = page_size - 1;
  const std::uint64_t first = command.dptr[0];
  if ((first & 3) != 0) return CommandStatus::invalid_prp_offset;
  const std::uint64_t run = std::min(size, page_size - (first & in_page));
  append(segments, first, run);
  size -= run;
  if (size == 0) return CommandStatus::success;

  if (size <= page_size) {
    if ((command.dptr[1] & in_page) != 0) return CommandStatus::invalid_prp_offset;
    append(segments, command.dptr[1], size);
    return CommandStatus::success;
  }

  std::array<std::uint64_t, kListChunk> entries;
  std::uint64_t list = command.dptr[1];
  if ((list & 7) != 0) return CommandStatus::invalid_prp_offset;
  while (size != 0) {
    const std::uint64_t left_in_list = (page_size - (list & in_page)) / 8;
    const std::uint64_t pages = (size + in_page) / page_size;
    const auto wanted = std::min({left_in_list, pages, std::uint64_t{kListChunk}});
    if (!read_list(dma, list, std::span(entries).first(wanted)))
      return CommandStatus::data_transfer_error;
    list += wanted * 8;
    for (std::uint64_t i = 0; i < wanted; ++i) {
      if ((entries[i] & in_page) != 0) return CommandStatus::invalid_prp_offset;
      // The last entry of a list page leads to the next one, unless it ends the data.
      if (i + 1 == left_in_list && pages > left_in_list) {
        list = entries[i];
        break;
      }
      const std::uint64_t page = std::min(size, page_size);
      append(segments, entries[i], page);
      size -= page;
    }
  }
  return CommandStatus::success;
}

CommandStatus find_sgl(vfio::Dma& dma, const Command& command, std::uint64_t size,
                       std::vector<Segment>& segments) {
  const auto first = std::bit_cast<SglDescriptor>(command.dptr);
  const auto kind_of = [](const SglDescriptor& descriptor) {
    return static_cast<SglKind>(SglType::get(descriptor.id));
  };
  // True: an address, the only subtype outside fabrics.
  const auto known = [&](const SglDescriptor& descriptor) {
    if (SglSubtype::get(descriptor.id) != 0) return false;
    const SglKind kind = kind_of(descriptor);
    return kind == SglKind::data_block || kind == SglKind::segment || kind == SglKind::last_segment;
  };
  const auto take_block = [&](const SglDescriptor& descriptor) {
    if (descriptor.length > size) return false;
    if (descriptor.length != 0) append(segments, descriptor.address, descriptor.length);
    size -= descriptor.length;
    return true;
  };

  if (!known(first)) return CommandStatus::sgl_type_invalid;
  if (kind_of(first) == SglKind::data_block) {
    return take_block(first) && size == 0 ? CommandStatus::success
                                          : CommandStatus::data_sgl_length_invalid;
  }

  std::array<SglDescriptor, kListChunk / 2> chunk;
  SglDescriptor segment = first;
  unsigned budget = kMaxSglDescriptors;
  for (;;) {
    if (segment.length == 0 || segment.length % sizeof segment != 0)
      return CommandStatus::invalid_sgl_segment;
    const bool last = kind_of(segment) == SglKind::last_segment;
    std::uint32_t left = segment.length / sizeof segment;
    if (left > budget) return CommandStatus::invalid_sgl_count;
    budget -= left;
    std::uint64_t at = segment.address;
    bool chained = false;
    while (left != 0) {
      const auto count = std::min<std::uint32_t>(left, chunk.size());
      if (!read_list(dma, at, std::span(chunk).first(count)))
        return CommandStatus::data_transfer_error;
      at += count * sizeof segment;
      left -= count;
      for (std::uint32_t i = 0; i < count; ++i) {
        if (!known(chunk[i])) return CommandStatus::sgl_type_invalid;
        if (kind_of(chunk[i]) == SglKind::data_block) {
          if (!take_block(chunk[i])) return CommandStatus::data_sgl_length_invalid;
          continue;
        }
        if (last) return CommandStatus::invalid_sgl_segment;
        if (left != 0 || i + 1 != count) return CommandStatus::invalid_sgl_count;
        segment = chunk[i];
        chained = true;
      }
    }
    if (!chained) break;
  }
  return size == 0 ? CommandStatus::success : CommandStatus::data_sgl_length_invalid;
}

}  // namespace

CommandStatus find_data(vfio::Dma& dma, const Command& command, std::uint64_t size,
                        std::uint64_t page_size, std::vector<Segment>& segments) {
  switch (Psdt::get(command.flags)) {
    case 0:
      return find_prps(dma, command, size, page_size, segments);
    case 1:
    case 2:
      return find_sgl(dma, command, size, segments);
    default:
      return CommandStatus::invalid_field;
  }
}

}  // namespace uvfio::nvme
