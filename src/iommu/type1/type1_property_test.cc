// Type1 against a model of it that is too simple to be wrong: random sequences of map, unmap, pin,
// unpin, attach, detach and new addresses, with several domains. After each step the accounts are
// exact, every domain leads where the model says, and a call that failed has changed nothing.

#include <gtest/gtest.h>
#include <linux/vfio.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <array>
#include <cstring>
#include <iterator>
#include <map>
#include <optional>
#include <ostream>
#include <set>

#include "iommu/type1/type1.h"
#include "tests/support/fake_address_space.h"

namespace uvfio::iommu::type1 {
namespace {

using testing::FakeAddressSpace;

constexpr std::uint64_t kPage = memory::kPageSize;
constexpr std::uint64_t kBase = 0x10000000;  // of either address space
constexpr std::uint64_t kPages = 64;         // that there are in each
constexpr unsigned kSpaces = 2;
constexpr unsigned kPrivate = 1;                                  // the one that is reached by copy
constexpr std::array<std::uint64_t, kSpaces> kLimits = {60, 24};  // RLIMIT_MEMLOCK, pages

// Where mappings are made: below and above the narrow unit's end, and around the message window.
constexpr std::array<std::uint64_t, 4> kWindows = {0x100000, 0xfedf8000, 0x7fffff8000,
                                                   0x8000000000};
constexpr std::uint64_t kWindowPages = 16;
constexpr std::uint64_t kNarrowLast = 0x7fffffffff;  // 39 bits
constexpr ReservedRegion kMsi{
    .first = 0xfee00000, .last = 0xfeefffff, .kind = ReservedRegion::Kind::msi};
constexpr ReservedRegion kDirect{
    .first = 0x100000, .last = 0x100fff, .kind = ReservedRegion::Kind::direct};

struct Step {
  enum class Kind { map, unmap, unmap_all, pin, unpin, attach, detach, invalidate, update };
  Kind kind = Kind::map;
  unsigned window = 0;
  std::uint64_t page = 0;    // of the window
  std::uint64_t pages = 1;   // of the range
  std::uint64_t memory = 0;  // page of the address space; beyond kPages there is none
  unsigned space = 0;
  std::uint32_t access = 0;  // VFIO_DMA_MAP_FLAG_*
  bool lock_cap = false;
  unsigned group = 0;

  [[nodiscard]] std::uint64_t iova() const { return kWindows[window] + page * kPage; }
  // A new address has to be one of memory that is there.
  [[nodiscard]] std::uint64_t new_memory() const { return memory % (kPages - 8); }
  [[nodiscard]] std::uint64_t last() const { return iova() + pages * kPage - 1; }
};

std::ostream& operator<<(std::ostream& out, const Step& step) {
  static constexpr std::array kNames = {"map",    "unmap",  "unmap_all",  "pin",   "unpin",
                                        "attach", "detach", "invalidate", "update"};
  return out << kNames[static_cast<std::size_t>(step.kind)] << std::hex << " iova=" << step.iova()
             << std::dec << " pages=" << step.pages << " memory=" << step.memory
             << " space=" << step.space << " access=" << step.access
             << " lock_cap=" << step.lock_cap << " group=" << step.group << '\n';
}

rc::Gen<Step> any_step() {
  using Kind = Step::Kind;
  return rc::gen::build<Step>(
      rc::gen::set(&Step::kind, rc::gen::weightedElement<Kind>({{8, Kind::map},
                                                                {4, Kind::unmap},
                                                                {1, Kind::unmap_all},
                                                                {6, Kind::pin},
                                                                {4, Kind::unpin},
                                                                {5, Kind::attach},
                                                                {3, Kind::detach},
                                                                {1, Kind::invalidate},
                                                                {2, Kind::update}})),
      rc::gen::set(&Step::window,
                   rc::gen::weightedElement<unsigned>({{6, 0}, {2, 1}, {1, 2}, {1, 3}})),
      rc::gen::set(&Step::page, rc::gen::inRange<std::uint64_t>(0, kWindowPages)),
      rc::gen::set(&Step::pages, rc::gen::inRange<std::uint64_t>(1, 8)),
      rc::gen::set(&Step::memory, rc::gen::inRange<std::uint64_t>(0, kPages)),
      rc::gen::set(&Step::space, rc::gen::weightedElement<unsigned>({{3, 0}, {1, 1}})),
      rc::gen::set(&Step::access, rc::gen::inRange<std::uint32_t>(1, 4)),
      rc::gen::set(&Step::lock_cap, rc::gen::weightedElement<bool>({{5, false}, {1, true}})),
      rc::gen::set(&Step::group, rc::gen::inRange<unsigned>(0, 6)));
}

// A page of memory, wherever it is.
struct Place {
  unsigned space = 0;
  std::uint64_t page = 0;
  bool operator==(const Place&) const = default;
};

struct ModelMapping {
  std::uint64_t pages = 0;
  Place start;        // where the mapping's memory is by what was said last
  Place iommu_start;  // and where the domains lead
  std::uint32_t access = 0;
  bool lock_cap = false;
  bool in_domains = false;
  bool vaddr_invalid = false;
  std::map<std::uint64_t, unsigned> pins;  // by page of the mapping
};

struct ModelGroup {
  bool emulated = false;
  std::string implementation;
  std::uint64_t last = 0;  // of the aperture
  std::vector<ReservedRegion> reserved;
};

// What type1 should be. Mappings are few: everything is looked for page by page.
class Model {
 public:
  explicit Model(std::vector<ModelGroup> groups) : groups_(std::move(groups)) {}

  // Each applies the step if it succeeds, and says which errnos it may give (0: success).
  std::set<int> apply(const Step& step) {
    switch (step.kind) {
      case Step::Kind::map:
        return map(step);
      case Step::Kind::unmap:
        return unmap(step);
      case Step::Kind::unmap_all:
        mappings.clear();
        return {0};
      case Step::Kind::pin:
        return pin(step);
      case Step::Kind::unpin:
        unpin(step.iova(), step.pages);
        return {0};
      case Step::Kind::attach:
        return attach(step.group);
      case Step::Kind::detach:
        detach(step.group);
        return {0};
      case Step::Kind::invalidate:
        return invalidate(step);
      case Step::Kind::update:
        return update(step);
    }
    return {};
  }

  [[nodiscard]] std::uint64_t locked(unsigned space) const {
    std::uint64_t pages = 0;
    for (const auto& [iova, mapping] : mappings) {
      if (mapping.start.space == space) pages += counted(mapping);
    }
    return pages;
  }
  [[nodiscard]] std::uint64_t pinned() const {
    std::uint64_t pages = 0;
    for (const auto& [iova, mapping] : mappings) pages += mapping.pins.size();
    return pages;
  }
  [[nodiscard]] std::set<std::string> domains() const {
    std::set<std::string> names;
    for (const unsigned group : attached) {
      if (!groups_[group].emulated) names.insert(groups_[group].implementation);
    }
    return names;
  }
  [[nodiscard]] bool has_emulated() const {
    return std::ranges::any_of(attached, [&](unsigned group) { return groups_[group].emulated; });
  }
  // What the page at `iova` is for devices behind an IOMMU.
  [[nodiscard]] std::optional<std::pair<Place, std::uint32_t>> find(std::uint64_t iova) const {
    const auto entry = at(iova);
    if (entry == mappings.end()) return std::nullopt;
    const auto& mapping = entry->second;
    return std::pair(
        Place{mapping.iommu_start.space, mapping.iommu_start.page + (iova - entry->first) / kPage},
        mapping.access);
  }

  std::map<std::uint64_t, ModelMapping> mappings;  // by IOVA
  std::set<unsigned> attached;

 private:
  using Iterator = std::map<std::uint64_t, ModelMapping>::const_iterator;

  [[nodiscard]] Iterator at(std::uint64_t iova) const {
    auto entry = mappings.upper_bound(iova);
    if (entry == mappings.begin()) return mappings.end();
    --entry;
    return iova - entry->first < entry->second.pages * kPage ? entry : mappings.end();
  }
  static std::uint64_t last_of(Iterator entry) {
    return entry->first + entry->second.pages * kPage - 1;
  }
  [[nodiscard]] bool overlaps(std::uint64_t first, std::uint64_t last) const {
    return std::ranges::any_of(mappings, [&](const auto& entry) {
      return entry.first <= last && entry.first + entry.second.pages * kPage - 1 >= first;
    });
  }
  static std::uint64_t counted(const ModelMapping& mapping) {
    return mapping.in_domains ? mapping.pages : mapping.pins.size();
  }
  [[nodiscard]] bool any_invalid() const {
    return std::ranges::any_of(mappings,
                               [](const auto& entry) { return entry.second.vaddr_invalid; });
  }

  // With the first domain the IOVA space gets limits; they stay, as "everything", when the last one
  // goes.
  [[nodiscard]] bool valid(std::uint64_t first, std::uint64_t last) const {
    for (const unsigned index : attached) {
      const auto& group = groups_[index];
      if (group.emulated) continue;
      if (last > group.last || hits_reserved(group, first, last)) return false;
    }
    return true;
  }
  static bool hits_reserved(const ModelGroup& group, std::uint64_t first, std::uint64_t last) {
    return std::ranges::any_of(group.reserved, [&](const ReservedRegion& region) {
      return region.kind != ReservedRegion::Kind::direct_relaxable && region.first <= last &&
             region.last >= first;
    });
  }

  // What pinning a whole mapping says. Page by page: what is missing first decides.
  std::set<int> pin_whole(const ModelMapping& mapping, std::uint64_t locked_already) const {
    const std::uint64_t there =
        mapping.start.page >= kPages ? 0 : std::min(mapping.pages, kPages - mapping.start.page);
    if (!mapping.lock_cap) {
      std::uint64_t count = locked_already;
      for (std::uint64_t page = 0; page < there; ++page) {
        count += mapping.pins.contains(page) ? 0 : 1;
        if (!mapping.pins.contains(page) && count > kLimits[mapping.start.space]) return {ENOMEM};
      }
    }
    return {there == mapping.pages ? 0 : EFAULT};
  }

  std::set<int> map(const Step& step) {
    if (overlaps(step.iova(), step.last())) return {EEXIST};
    if (!valid(step.iova(), step.last())) return {EINVAL};
    ModelMapping mapping{.pages = step.pages,
                         .start = {step.space, step.memory},
                         .iommu_start = {step.space, step.memory},
                         .access = step.access,
                         .lock_cap = step.lock_cap,
                         .in_domains = !domains().empty(),
                         .pins = {}};
    if (mapping.in_domains) {
      if (auto result = pin_whole(mapping, locked(step.space)); !result.contains(0)) return result;
    }
    mappings.emplace(step.iova(), std::move(mapping));
    return {0};
  }

  std::set<int> unmap(const Step& step) {
    const auto cut = [&](std::uint64_t iova, bool start) {
      const auto entry = at(iova);
      return entry != mappings.end() && (start ? entry->first != iova : last_of(entry) != iova);
    };
    if (cut(step.iova(), true) || cut(step.last(), false)) return {EINVAL};
    std::erase_if(mappings, [&](const auto& entry) {
      return entry.first >= step.iova() && entry.first <= step.last();
    });
    return {0};
  }

  std::set<int> pin(const Step& step) {
    if (any_invalid()) return {EBUSY};
    auto before = mappings;
    for (std::uint64_t i = 0; i < step.pages; ++i) {
      if (auto result = pin_page(step.iova() + i * kPage, step.access); result != 0) {
        mappings = std::move(before);
        return {result};
      }
    }
    return {0};
  }
  int pin_page(std::uint64_t iova, std::uint32_t access) {
    const auto entry = at(iova);
    if (entry == mappings.end()) return EINVAL;
    ModelMapping& mapping = mappings.at(entry->first);
    if ((access & ~mapping.access) != 0) return EPERM;
    const std::uint64_t page = (iova - entry->first) / kPage;
    if (mapping.pins.contains(page)) {
      ++mapping.pins[page];
      return 0;
    }
    if (mapping.start.page + page >= kPages) return EFAULT;
    if (!mapping.in_domains && !mapping.lock_cap &&
        locked(mapping.start.space) + 1 > kLimits[mapping.start.space]) {
      return ENOMEM;
    }
    mapping.pins[page] = 1;
    return 0;
  }
  void unpin(std::uint64_t iova, std::uint64_t pages) {
    for (std::uint64_t i = 0; i < pages; ++i) {
      const auto entry = at(iova + i * kPage);
      if (entry == mappings.end()) return;
      auto& pins = mappings.at(entry->first).pins;
      const auto pin = pins.find((iova + i * kPage - entry->first) / kPage);
      if (pin != pins.end() && --pin->second == 0) pins.erase(pin);
    }
  }

  std::set<int> attach(unsigned index) {
    if (any_invalid()) return {EBUSY};
    if (attached.contains(index)) return {EINVAL};
    const ModelGroup& group = groups_[index];
    if (!group.emulated) {
      // The mappings that there are have to go with the aperture and the reserved regions.
      for (auto entry = mappings.cbegin(); entry != mappings.cend(); ++entry) {
        if (hits_reserved(group, entry->first, last_of(entry))) return {EINVAL};
      }
      const bool beyond = std::ranges::any_of(mappings, [&](const auto& entry) {
        return entry.first + entry.second.pages * kPage - 1 > group.last;
      });
      // Without limits so far it is the domain that refuses, after the pages were pinned.
      if (beyond && limited_) return {EINVAL};
      auto before = mappings;
      for (auto& [iova, mapping] : mappings) {
        if (mapping.in_domains) continue;
        if (auto result = pin_whole(mapping, locked(mapping.start.space)); !result.contains(0)) {
          mappings = std::move(before);
          return beyond ? std::set{*result.begin(), ERANGE} : result;
        }
        mapping.in_domains = true;
        mapping.iommu_start = mapping.start;
      }
      if (beyond) {
        mappings = std::move(before);
        return {ERANGE};
      }
      limited_ = true;
    }
    attached.insert(index);
    return {0};
  }
  void detach(unsigned index) {
    if (attached.erase(index) == 0) return;
    if (domains().empty()) {
      if (!has_emulated()) mappings.clear();
      for (auto& [iova, mapping] : mappings) mapping.in_domains = false;
    }
  }

  std::set<int> invalidate(const Step& step) {
    if (has_emulated()) return {EBUSY};
    auto probe = *this;
    if (probe.unmap(step).contains(EINVAL)) return {EINVAL};
    for (const bool mark : {false, true}) {
      for (auto& [iova, mapping] : mappings) {
        if (iova < step.iova() || iova > step.last()) continue;
        if (!mark && mapping.vaddr_invalid) return {EINVAL};
        if (mark) mapping.vaddr_invalid = true;
      }
    }
    return {0};
  }
  std::set<int> update(const Step& step) {
    if (!overlaps(step.iova(), step.last())) return {ENOENT};
    const auto entry = mappings.find(step.iova());
    if (entry == mappings.end() || entry->second.pages != step.pages ||
        !entry->second.vaddr_invalid) {
      return {EINVAL};
    }
    ModelMapping& mapping = entry->second;
    if (mapping.start.space != step.space && !step.lock_cap &&
        locked(step.space) + counted(mapping) > kLimits[step.space] && counted(mapping) != 0) {
      return {ENOMEM};
    }
    mapping.start = {step.space, step.new_memory()};
    // Shared memory stays where it is; what is copied is copied from the new address.
    if (mapping.iommu_start.space == kPrivate) mapping.iommu_start = mapping.start;
    mapping.lock_cap = step.lock_cap;
    mapping.vaddr_invalid = false;
    return {0};
  }

  std::vector<ModelGroup> groups_;
  bool limited_ = false;
};

// The real thing, with its groups, a device that pins page by page, and memory that knows where it
// is.
class Machine {
 public:
  Machine() {
    for (unsigned space = 0; space < kSpaces; ++space) {
      const auto kind = space == kPrivate ? FakeAddressSpace::Kind::private_memory
                                          : FakeAddressSpace::Kind::shared;
      spaces_[space] = std::make_shared<FakeAddressSpace>(kBase, kPages * kPage, kind);
      spaces_[space]->limit = kLimits[space];
      for (std::uint64_t page = 0; page < kPages; ++page) {
        const Place place{space, page};
        std::memcpy(spaces_[space]->memory.data() + page * kPage, &place, sizeof place);
      }
    }
    iommu_->register_device(pinner_);
  }
  ~Machine() {
    for (const unsigned group : std::set(attached_)) detach(group);
    iommu_->unregister_device(pinner_);
  }
  Machine(const Machine&) = delete;

  // The errno, 0 for success.
  int apply(const Step& step) {
    switch (step.kind) {
      case Step::Kind::map:
        return map(step, step.memory, step.access);
      case Step::Kind::unmap:
        return unmap(step, 0);
      case Step::Kind::unmap_all:
        return error(iommu_->unmap({.flags = VFIO_DMA_UNMAP_FLAG_ALL}));
      case Step::Kind::pin:
        return pin(step);
      case Step::Kind::unpin:
        iommu_->unpin_pages(step.iova(), step.pages);
        return 0;
      case Step::Kind::attach: {
        const int result = error(iommu_->attach_group(*groups_[step.group]));
        if (result == 0) attached_.insert(step.group);
        return result;
      }
      case Step::Kind::detach:
        detach(step.group);
        return 0;
      case Step::Kind::invalidate:
        return unmap(step, VFIO_DMA_UNMAP_FLAG_VADDR);
      case Step::Kind::update:
        return map(step, step.new_memory(), VFIO_DMA_MAP_FLAG_VADDR);
    }
    return -1;
  }

  void compare(const Model& model) {
    for (unsigned space = 0; space < kSpaces; ++space) {
      RC_ASSERT(spaces_[space]->locked().pages() == model.locked(space));
    }
    const auto usage = iommu_->usage();
    RC_ASSERT(usage.mappings == model.mappings.size());
    RC_ASSERT(usage.pinned_pages == model.pinned());
    RC_ASSERT(iommu_->info().dma_avail == 65535 - model.mappings.size());
    RC_ASSERT(iommu_->snapshot().domains.size() == model.domains().size());
    RC_ASSERT(attached_ == model.attached);
    for (const unsigned group : attached_) {
      if (groups_[group]->type() == GroupType::real) compare_domain(model, *groups_[group]);
    }
  }

  static std::vector<ModelGroup> describe() {
    const ModelGroup wide{
        .implementation = "wide", .last = (std::uint64_t{1} << 48) - 1, .reserved = {kMsi}};
    const ModelGroup narrow{.implementation = "narrow", .last = kNarrowLast, .reserved = {kMsi}};
    ModelGroup with_region = narrow;
    with_region.reserved.push_back(kDirect);
    const ModelGroup emulated{.emulated = true, .implementation = {}, .reserved = {}};
    return {wide, wide, narrow, with_region, emulated, emulated};
  }

 private:
  class Pinner final : public vfio::DmaClient {
   public:
    explicit Pinner(Type1& iommu) : iommu_(iommu) {}
    // Everything in a mapping that goes, however often it is pinned.
    void dma_unmap(std::uint64_t iova, std::uint64_t size) override {
      for (std::uint64_t at = iova; at - iova < size; at += kPage) {
        while (counts[at] != 0) {
          --counts[at];
          iommu_.unpin_pages(at, 1);
        }
      }
    }
    std::map<std::uint64_t, unsigned> counts;

   private:
    Type1& iommu_;
  };

  template <typename T>
  static int error(const Result<T>& result) {
    return result ? 0 : static_cast<int>(result.error());
  }

  int map(const Step& step, std::uint64_t memory, std::uint32_t flags) {
    return error(iommu_->map({.iova = step.iova(),
                              .vaddr = kBase + memory * kPage,
                              .size = step.pages * kPage,
                              .flags = flags},
                             {.space = spaces_[step.space], .lock_cap = step.lock_cap}));
  }
  int unmap(const Step& step, std::uint32_t flags) {
    return error(iommu_->unmap({.iova = step.iova(), .size = step.pages * kPage, .flags = flags}));
  }
  int pin(const Step& step) {
    Prot prot = Prot::none;
    if ((step.access & VFIO_DMA_MAP_FLAG_READ) != 0) prot = prot | Prot::read;
    if ((step.access & VFIO_DMA_MAP_FLAG_WRITE) != 0) prot = prot | Prot::write;
    vfio::PinnedPages pins;
    const int result = error(iommu_->pin_pages(step.iova(), step.pages, prot, pins));
    // More than there are: unpinning what is not pinned is silent.
    for (std::uint64_t i = 0; result == 0 && i < step.pages; ++i)
      ++pinner_.counts[step.iova() + i * kPage];
    return result;
  }
  void detach(unsigned group) {
    if (attached_.erase(group) != 0) iommu_->detach_group(*groups_[group]);
  }

  // Every page of every window, through the domain of `group`.
  void compare_domain(const Model& model, IommuGroup& group) {
    const auto path = iommu_->dma_path(iommu_, group, "device");
    RC_ASSERT(path.has_value());
    for (const std::uint64_t window : kWindows) {
      for (std::uint64_t page = 0; page < kWindowPages + 8; ++page) {
        const std::uint64_t iova = window + page * kPage;
        const auto expected = model.find(iova);
        Place place;
        const bool readable =
            (*path)->read(iova, std::as_writable_bytes(std::span(&place, 1))).has_value();
        const bool may_read = expected && (expected->second & VFIO_DMA_MAP_FLAG_READ) != 0;
        const bool may_write = expected && (expected->second & VFIO_DMA_MAP_FLAG_WRITE) != 0;
        RC_ASSERT(readable == may_read);
        if (readable) RC_ASSERT(place == expected->first);
        const std::uint64_t mark = iova;
        const bool written =
            (*path)->write(iova + 2048, std::as_bytes(std::span(&mark, 1))).has_value();
        RC_ASSERT(written == may_write);
        if (written) {
          const auto& memory = spaces_[expected->first.space]->memory;
          RC_ASSERT(!std::memcmp(memory.data() + expected->first.page * kPage + 2048, &mark,
                                 sizeof mark));
        }
      }
    }
  }

  std::array<std::shared_ptr<FakeAddressSpace>, kSpaces> spaces_;
  std::shared_ptr<Type1> iommu_ = std::make_shared<Type1>(true, std::make_shared<Parameters>());
  std::vector<std::unique_ptr<IommuGroup>> groups_ = make_groups();
  std::set<unsigned> attached_;
  Pinner pinner_{*iommu_};

  static std::vector<std::unique_ptr<IommuGroup>> make_groups() {
    std::vector<std::unique_ptr<IommuGroup>> groups;
    for (const ModelGroup& group : describe()) {
      const auto id = static_cast<unsigned>(groups.size());
      if (group.emulated) {
        groups.push_back(std::make_unique<IommuGroup>(id, GroupType::emulated));
        continue;
      }
      // A unit for each group: those of one implementation share a domain all the same.
      UnitProperties properties;
      properties.implementation = group.implementation;
      properties.aperture_last = group.last;
      std::vector<ReservedRegion> own(group.reserved.begin() + 1, group.reserved.end());
      groups.push_back(std::make_unique<IommuGroup>(
          id, GroupType::real, std::make_shared<Unit>(std::move(properties)), std::move(own)));
    }
    return groups;
  }
};

RC_GTEST_PROP(Type1Property, FollowsTheModel, ()) {
  const auto steps = *rc::gen::container<std::vector<Step>>(any_step());
  Machine machine;
  Model model(Machine::describe());
  for (const Step& step : steps) {
    const auto expected = model.apply(step);
    const int result = machine.apply(step);
    if (!expected.contains(result)) {
      RC_LOG() << step << "answered " << result << ", expected " << *expected.begin() << '\n';
      RC_FAIL("another answer than the model's");
    }
    machine.compare(model);
  }
}

}  // namespace
}  // namespace uvfio::iommu::type1
