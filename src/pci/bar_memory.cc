#include "pci/bar_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/log.h"
#include "pci/layout.h"

namespace uvfio::pci {
namespace {

constexpr std::uint64_t kPage = 4096;

Fd make_file() { return Fd(memfd_create("uvfio-bars", MFD_CLOEXEC)); }

std::byte* map(const Fd& file, std::uint64_t offset, std::uint64_t size) {
  void* const at = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
                        file.get(), static_cast<off_t>(offset));
  return at == MAP_FAILED ? nullptr : static_cast<std::byte*>(at);
}

// Copies those of the `size` bytes at `offset` of the file that are there: holes stay holes.
void copy_data(const Fd& file, std::uint64_t offset, const std::byte* from, std::byte* to,
               std::uint64_t size) {
  const std::uint64_t end = offset + size;
  for (std::uint64_t at = offset; at < end;) {
    const off_t data = lseek(file.get(), static_cast<off_t>(at), SEEK_DATA);
    if (data < 0 || static_cast<std::uint64_t>(data) >= end) return;
    const off_t hole = lseek(file.get(), data, SEEK_HOLE);
    const auto begin = static_cast<std::uint64_t>(data);
    at = hole < 0 ? end : std::min(end, static_cast<std::uint64_t>(hole));
    std::memcpy(to + (begin - offset), from + (begin - offset), at - begin);
  }
}

}  // namespace

Result<BarMemory> BarMemory::create(const Description& description) {
  BarMemory memory;
  for (unsigned i = 0; i < description.bars.size(); ++i) {
    const Bar& bar = description.bars[i];
    if (!bar.mappable.empty()) memory.end_ = region_offset(i) + bar.size;
  }
  if (memory.end_ == 0) return memory;
  memory.shown_ = make_file();
  memory.kept_ = make_file();
  if (!memory.shown_ || !memory.kept_ ||
      ftruncate(memory.kept_.get(), static_cast<off_t>(memory.end_)) != 0) {
    return fail(errno);
  }
  for (unsigned i = 0; i < description.bars.size(); ++i) {
    const Bar& bar = description.bars[i];
    if (bar.mappable.empty()) continue;
    Window& window = memory.bars_[i];
    window.offset = region_offset(i);
    std::byte* const at = map(memory.kept_, window.offset, bar.size);
    if (at == nullptr) return fail(errno);
    window.memory = {at, bar.size};
    auto guard = GuardedRange::add(at, bar.size, kPage, true);
    if (!guard) return std::unexpected(guard.error());
    window.guard = std::move(*guard);
  }
  return memory;
}

BarMemory::BarMemory(BarMemory&& other) noexcept
    : shown_(std::move(other.shown_)),
      kept_(std::move(other.kept_)),
      end_(other.end_),
      visible_(other.visible_),
      bars_(std::exchange(other.bars_, {})) {}

BarMemory::~BarMemory() {
  for (Window& window : bars_) {
    window.guard.reset();
    if (!window.memory.empty()) munmap(window.memory.data(), window.memory.size());
  }
}

void BarMemory::set_visible(bool visible) {
  if (!shown_ || visible == visible_) return;
  if (const Status moved = visible ? move(kept_, shown_) : move(shown_, kept_); !moved) {
    spdlog::error("pci: cannot {} mappings of BARs: {}", visible ? "give back" : "take away",
                  strerror(value(moved.error())));
    return;
  }
  visible_ = visible;
}

Status BarMemory::move(const Fd& from, const Fd& to) {
  std::array<std::byte*, 6> copies{};
  const auto give_up = [&](int error) {
    for (unsigned i = 0; i < bars_.size(); ++i) {
      if (copies[i] != nullptr) munmap(copies[i], bars_[i].memory.size());
    }
    static_cast<void>(!ftruncate(to.get(), 0));
    return fail(error);
  };
  if (ftruncate(to.get(), static_cast<off_t>(end_)) != 0) return give_up(errno);
  for (unsigned i = 0; i < bars_.size(); ++i) {
    const Window& window = bars_[i];
    if (window.memory.empty()) continue;
    copies[i] = map(to, window.offset, window.memory.size());
    if (copies[i] == nullptr) return give_up(errno);
    copy_data(from, window.offset, window.memory.data(), copies[i], window.memory.size());
  }
  for (unsigned i = 0; i < bars_.size(); ++i) {
    const auto memory = bars_[i].memory;
    // Takes the place of the former mapping: no mapping more than before, so nothing to run out of.
    if (copies[i] != nullptr &&
        mremap(copies[i], memory.size(), memory.size(), MREMAP_MAYMOVE | MREMAP_FIXED,
               memory.data()) == MAP_FAILED) {
      return fail(errno);
    }
  }
  return ftruncate(from.get(), 0) == 0 ? Status() : fail(errno);
}

}  // namespace uvfio::pci
