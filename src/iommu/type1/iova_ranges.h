// The IOVAs that a container may map (vfio_iommu.iova_list).
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

namespace uvfio::iommu::type1 {

// Ascending, disjoint ranges with inclusive ends. None at all stands for "anything", as long as
// there never was a domain.
class IovaRanges {
 public:
  struct Range {
    std::uint64_t first = 0;
    std::uint64_t last = std::numeric_limits<std::uint64_t>::max();
    bool operator==(const Range&) const = default;
  };

  [[nodiscard]] bool unlimited() const { return ranges_.empty(); }
  [[nodiscard]] const std::vector<Range>& list() const { return ranges_; }
  // Lowest and highest valid IOVA. Not of an unlimited list.
  [[nodiscard]] Range limits() const { return {ranges_.front().first, ranges_.back().last}; }

  // Is [first, last] wholly inside one range?
  [[nodiscard]] bool contains(std::uint64_t first, std::uint64_t last) const {
    if (unlimited()) return true;
    return std::ranges::any_of(
        ranges_, [&](const Range& range) { return range.first <= first && last <= range.last; });
  }

  // Narrows everything to [first, last]; an unlimited list becomes this range
  // (vfio_iommu_aper_resize). The list may become empty, which does not mean "anything" then.
  void restrict_to(std::uint64_t first, std::uint64_t last) {
    if (unlimited()) {
      ranges_.push_back({first, last});
      return;
    }
    std::vector<Range> kept;
    for (const Range& range : ranges_) {
      const Range cut{std::max(range.first, first), std::min(range.last, last)};
      if (cut.first <= cut.last) kept.push_back(cut);
    }
    ranges_ = std::move(kept);
  }

  // Cuts [first, last] out (vfio_iommu_resv_exclude).
  void exclude(std::uint64_t first, std::uint64_t last) {
    std::vector<Range> kept;
    for (const Range& range : ranges_) {
      if (last < range.first || first > range.last) {
        kept.push_back(range);
        continue;
      }
      if (first > range.first) kept.push_back({range.first, first - 1});
      if (last < range.last) kept.push_back({last + 1, range.last});
    }
    ranges_ = std::move(kept);
  }

  // One range (vfio_iommu_resv_refresh starts from it).
  void reset(Range range) { ranges_ = {range}; }

 private:
  std::vector<Range> ranges_;
};

}  // namespace uvfio::iommu::type1
