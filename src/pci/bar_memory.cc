#include "pci/bar_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ranges>
#include <utility>

#include "base/log.h"
#include "pci/layout.h"
#include "uvfio/memory.h"

namespace uvfio::pci {
namespace {

Fd make_file() { return Fd(memfd_create("uvfio-bars", MFD_CLOEXEC)); }

std::byte* map(const Fd& file, std::uint64_t offset, std::uint64_t size) {
  void* const at = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
                        file.get(), static_cast<off_t>(offset));
  return at == MAP_FAILED ? nullptr : static_cast<std::byte*>(at);
}

struct Extent {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

// Where the file has data in [begin, end), ascending.
std::vector<Extent> data_in(const Fd& file, std::uint64_t begin, std::uint64_t end) {
  std::vector<Extent> found;
  while (begin < end) {
    const off_t data = lseek(file.get(), static_cast<off_t>(begin), SEEK_DATA);
    if (data < 0 || static_cast<std::uint64_t>(data) >= end) break;
    const off_t hole = lseek(file.get(), data, SEEK_HOLE);
    begin = hole < 0 ? end : std::min(end, static_cast<std::uint64_t>(hole));
    found.push_back({.begin = static_cast<std::uint64_t>(data), .end = begin});
  }
  return found;
}

// Takes pages out of one file and puts what they hold into another. A pipe holds on to them while
// they are taken, for until then clients may store into them.
class PageMover {
 public:
  static Result<PageMover> create(const Fd& from, const Fd& to) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) return fail(errno);
    PageMover mover(from, to);
    mover.in_ = Fd(ends[1]);
    mover.out_ = Fd(ends[0]);
    mover.piece_.resize(static_cast<std::size_t>(fcntl(ends[1], F_GETPIPE_SZ)));
    return mover;
  }

  // [begin, end) of the file is mapped at `memory`. The file ends at `begin` afterwards. (A page
  // that nobody has touched before, and somebody does just now, may go unseen.)
  void take(std::uint64_t begin, std::uint64_t end, std::byte* memory) {
    const auto extents = data_in(from_, begin, end);
    for (const Extent& extent : extents | std::views::reverse) {
      for (std::uint64_t upper = extent.end; upper > extent.begin;) {
        const std::uint64_t lower =
            upper - std::min<std::uint64_t>(upper - extent.begin, piece_.size());
        take_piece(lower, upper - lower, memory + (lower - begin));
        upper = lower;
      }
    }
    shorten(begin);
  }

 private:
  PageMover(const Fd& from, const Fd& to) : from_(from), to_(to) {}

  void take_piece(std::uint64_t offset, std::size_t size, std::byte* memory) {
    const iovec all{memory, size};
    const auto held =
        static_cast<std::size_t>(std::max<ssize_t>(0, vmsplice(in_.get(), &all, 1, 0)));
    // What it cannot hold on to is copied before, and misses what is stored meanwhile.
    std::memcpy(piece_.data() + held, memory + held, size - held);
    shorten(offset);
    const ssize_t got = held == 0 ? 0 : read(out_.get(), piece_.data(), held);
    if (got != static_cast<ssize_t>(held) ||
        pwrite(to_.get(), piece_.data(), size, static_cast<off_t>(offset)) !=
            static_cast<ssize_t>(size)) {
      spdlog::error("pci: the contents of a BAR are lost: {}", strerror(errno));
    }
  }
  void shorten(std::uint64_t size) {
    if (ftruncate(from_.get(), static_cast<off_t>(size)) != 0)
      spdlog::error("pci: mappings of a BAR stay: {}", strerror(errno));
  }

  const Fd& from_;
  const Fd& to_;
  Fd in_;
  Fd out_;
  std::vector<std::byte> piece_;
};

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
    window.parts = bar.mappable;
    std::byte* const at = map(memory.kept_, window.offset, bar.size);
    if (at == nullptr) return fail(errno);
    window.memory = {at, bar.size};
    auto guard = GuardedRange::add(at, bar.size, memory::kPageSize, true);
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
  if (!mappable() || visible == visible_) return;
  if (!shown_) shown_ = make_file();
  if (const Status moved = visible ? move(kept_, shown_) : move(shown_, kept_); !moved) {
    spdlog::error("pci: cannot {} mappings of BARs: {}", visible ? "give back" : "take away",
                  strerror(value(moved.error())));
    return;
  }
  visible_ = visible;
}

void BarMemory::part_with_clients() {
  set_visible(false);
  // Without a descriptor for it there is none, until it is to be shown.
  if (mappable() && !visible_) shown_ = make_file();
}

Status BarMemory::move(const Fd& from, const Fd& to) {
  std::array<std::byte*, 6> others{};
  const auto give_up = [&](int error) {
    for (unsigned i = 0; i < bars_.size(); ++i) {
      if (others[i] != nullptr) munmap(others[i], bars_[i].memory.size());
    }
    static_cast<void>(!ftruncate(to.get(), 0));
    return fail(error);
  };
  if (!from || !to) return fail(EMFILE);
  // What can fail comes first.
  auto mover = PageMover::create(from, to);
  if (!mover) return std::unexpected(mover.error());
  if (ftruncate(to.get(), static_cast<off_t>(end_)) != 0) return give_up(errno);
  for (unsigned i = 0; i < bars_.size(); ++i) {
    const Window& window = bars_[i];
    if (window.memory.empty()) continue;
    others[i] = map(to, window.offset, window.memory.size());
    if (others[i] == nullptr) return give_up(errno);
    for (const Bar::Range& part : window.parts) {
      const std::uint64_t begin = window.offset + part.offset;
      for (const Extent& extent : data_in(from, begin, begin + part.size)) {
        if (fallocate(to.get(), 0, static_cast<off_t>(extent.begin),
                      static_cast<off_t>(extent.end - extent.begin)) != 0)
          return give_up(errno);
      }
    }
  }
  for (const Window& window : bars_ | std::views::reverse) {
    for (const Bar::Range& part : window.parts | std::views::reverse) {
      const std::uint64_t begin = window.offset + part.offset;
      mover->take(begin, begin + part.size, window.memory.data() + part.offset);
    }
  }
  static_cast<void>(!ftruncate(from.get(), 0));
  for (unsigned i = 0; i < bars_.size(); ++i) {
    const auto memory = bars_[i].memory;
    // Takes the place of the former mapping: no mapping more than before, so nothing to run out of.
    if (others[i] != nullptr &&
        mremap(others[i], memory.size(), memory.size(), MREMAP_MAYMOVE | MREMAP_FIXED,
               memory.data()) == MAP_FAILED) {
      spdlog::error("pci: the model has lost the memory of BAR {}: {}", i, strerror(errno));
    }
  }
  return {};
}

}  // namespace uvfio::pci
