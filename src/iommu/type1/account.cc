#include "iommu/type1/account.h"

#include <limits>
#include <string>

#include "base/log.h"

namespace uvfio::iommu::type1 {
namespace {

using memory::kPageShift;

constexpr std::uint64_t kUnlimited = std::numeric_limits<std::uint64_t>::max();

// Why there is no room, for whoever has to raise the limit.
void explain(memory::AddressSpace& space, const Mapping& mapping, std::uint64_t pages,
             std::uint64_t limit) {
  std::string holders;
  for (const auto& [container, held] : space.locked().holders()) {
    holders +=
        fmt::format("{}container {} holds {}", holders.empty() ? ": " : ", ", container, held);
  }
  spdlog::warn(
      "RLIMIT_MEMLOCK: no room for {} pages of the mapping at iova {:#x}, size {:#x}: {} of {} "
      "pages are charged{}. Raise the limit (ulimit -l) or give the client CAP_IPC_LOCK",
      pages, mapping.first, mapping.size(), space.locked().pages(), limit, holders);
}

}  // namespace

Status Account::charge(const Mapping& mapping, memory::AddressSpace& space, bool lock_cap,
                       std::span<const PageRun> runs) const {
  const std::uint64_t limit = lock_cap ? kUnlimited : space.lock_limit();
  const std::uint64_t page = mapping.vaddr >> kPageShift;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const PageRun& run = runs[i];
    const Status charged =
        by_page() ? space.locked().charge_range(page + run.first, run.count, limit, container_)
                  : space.locked().charge(run.count, limit, container_);
    if (charged) continue;
    explain(space, mapping, run.count, limit);
    for (const PageRun& done : runs.first(i)) {
      if (by_page()) {
        space.locked().uncharge_range(page + done.first, done.count, container_);
      } else {
        space.locked().uncharge(done.count, container_);
      }
    }
    return charged;
  }
  return {};
}

void Account::uncharge(const Mapping& mapping, std::span<const PageRun> runs) const {
  auto& locked = mapping.space->locked();
  for (const PageRun& run : runs) {
    if (by_page()) {
      locked.uncharge_range((mapping.vaddr >> kPageShift) + run.first, run.count, container_);
    } else {
      locked.uncharge(run.count, container_);
    }
  }
}

std::vector<PageRun> Account::pinned(const Mapping& mapping) const {
  std::vector<PageRun> runs;
  if (!mapping.pins || mapping.pins->pinned() == 0) return runs;
  if (!by_page()) return {{.first = 0, .count = mapping.pins->pinned()}};
  mapping.pins->for_each_run([&](std::uint64_t first, std::uint64_t count) {
    runs.push_back({.first = first, .count = count});
  });
  return runs;
}

std::vector<PageRun> Account::charged(const Mapping& mapping) const {
  if (mapping.iommu_mapped) return {whole(mapping)};
  return pinned(mapping);
}

}  // namespace uvfio::iommu::type1
