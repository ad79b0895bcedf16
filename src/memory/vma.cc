#include "memory/vma.h"

#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <charconv>
#include <limits>
#include <optional>
#include <string>
#include <string_view>

#include "memory/procmap_query.h"

namespace uvfio::memory {
namespace {

// Remembered process-wide: a kernel that lacks the ioctl will not learn it.
std::atomic<bool> kernel_has_query{true};

// Takes a number and the one character that must follow it off the front of `text`.
bool take(std::string_view& text, std::uint64_t& number, int base, char separator) {
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), number, base);
  const auto length = static_cast<std::size_t>(stop - text.data());
  if (error != std::errc() || length >= text.size() || *stop != separator) return false;
  text.remove_prefix(length + 1);
  return true;
}

// "7f00-7f01 rw-s 00000000 00:01 1030 /memfd:x (deleted)"
std::optional<Vma> parse_line(std::string_view line) {
  Vma vma;
  if (!take(line, vma.begin, 16, '-') || !take(line, vma.end, 16, ' ')) return std::nullopt;
  if (line.size() < 5 || line[4] != ' ') return std::nullopt;
  vma.readable = line[0] == 'r';
  vma.writable = line[1] == 'w';
  vma.shared = line[3] == 's';
  line.remove_prefix(5);
  std::uint64_t device_major = 0;
  std::uint64_t device_minor = 0;
  std::uint64_t inode = 0;
  if (!take(line, vma.offset, 16, ' ') || !take(line, device_major, 16, ':') ||
      !take(line, device_minor, 16, ' ')) {
    return std::nullopt;
  }
  const auto [stop, error] = std::from_chars(line.data(), line.data() + line.size(), inode);
  if (error != std::errc()) return std::nullopt;
  vma.device = makedev(static_cast<unsigned>(device_major), static_cast<unsigned>(device_minor));
  vma.inode = inode;
  return vma;
}

}  // namespace

Result<Vma> VmaReader::find(std::uint64_t vaddr) const {
  if (method_ == Method::kBest && kernel_has_query.load(std::memory_order_relaxed)) {
    auto vma = query(vaddr);
    if (vma || vma.error() != Errno{ENOTTY}) return vma;
    kernel_has_query.store(false, std::memory_order_relaxed);
  }
  return parse(vaddr);
}

Result<Vma> VmaReader::query(std::uint64_t vaddr) const {
  procmap_query query{};
  query.size = sizeof query;
  query.query_addr = vaddr;
  int result = 0;
  do {
    result = ioctl(maps_.get(), PROCMAP_QUERY, &query);
  } while (result < 0 && errno == EINTR);
  if (result < 0) return fail(errno == ENOTTY || errno == ESRCH ? errno : EFAULT);
  return Vma{.begin = query.vma_start,
             .end = query.vma_end,
             .offset = query.vma_offset,
             .device = makedev(query.dev_major, query.dev_minor),
             .inode = query.inode,
             .readable = (query.vma_flags & PROCMAP_QUERY_VMA_READABLE) != 0,
             .writable = (query.vma_flags & PROCMAP_QUERY_VMA_WRITABLE) != 0,
             .shared = (query.vma_flags & PROCMAP_QUERY_VMA_SHARED) != 0};
}

Result<Vma> VmaReader::parse(std::uint64_t vaddr) const {
  const std::scoped_lock lock(text_mutex_);
  std::array<char, 16384> buffer;
  std::string line;
  off_t offset = 0;
  for (;;) {
    const ssize_t length = pread(maps_.get(), buffer.data(), buffer.size(), offset);
    if (length < 0 && errno == EINTR) continue;
    if (length < 0) return fail(errno == ESRCH ? ESRCH : EFAULT);
    // Kernels differ in how they say that the address space is gone: ESRCH, or no text at all.
    if (length == 0) return fail(offset == 0 ? ESRCH : EFAULT);
    offset += length;
    std::string_view rest(buffer.data(), static_cast<std::size_t>(length));
    for (;;) {
      const std::size_t stop = rest.find('\n');
      line += rest.substr(0, stop);
      if (stop == std::string_view::npos) break;
      rest.remove_prefix(stop + 1);
      const auto vma = parse_line(line);
      line.clear();
      if (!vma || vma->end <= vaddr) continue;
      if (vma->begin > vaddr) return fail(EFAULT);
      return *vma;
    }
  }
}

Status VmaReader::check(std::uint64_t vaddr, std::uint64_t size, bool write) const {
  if (size > std::numeric_limits<std::uint64_t>::max() - vaddr) return fail(EFAULT);
  const std::uint64_t end = vaddr + size;
  while (vaddr < end) {
    const auto vma = find(vaddr);
    if (!vma) return std::unexpected(vma.error());
    if (!vma->admits(write)) return fail(EFAULT);
    vaddr = vma->end;
  }
  return {};
}

}  // namespace uvfio::memory
