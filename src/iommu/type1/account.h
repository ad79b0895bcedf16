// What a container charges to the address spaces that map memory in it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "iommu/type1/mapping.h"
#include "uvfio/error.h"
#include "uvfio/type1_parameters.h"

namespace uvfio::iommu::type1 {

// Pages of a mapping, numbered from its start.
struct PageRun {
  std::uint64_t first = 0;
  std::uint64_t count = 0;
};

// A mapping's pages are charged as a whole while it is in a domain, else one by one while devices
// pin them. Its user sees to that, under Type1's lock.
class Account {
 public:
  Account(Accounting policy, unsigned container) : policy_(policy), container_(container) {}

  // Does it matter which pages a charge is for? If not, the runs only count.
  [[nodiscard]] bool by_page() const { return policy_ == Accounting::per_address_space; }

  // Charges the runs, or none, to `space` (the mapping's, as a rule). ENOMEM: RLIMIT_MEMLOCK of its
  // process, unless `lock_cap` (CAP_IPC_LOCK). The log says who holds what.
  [[nodiscard]] Status charge(const Mapping& mapping, memory::AddressSpace& space, bool lock_cap,
                              std::span<const PageRun> runs) const;
  // From the mapping's address space.
  void uncharge(const Mapping& mapping, std::span<const PageRun> runs) const;

  // All pages of the mapping, and those that devices have pinned.
  [[nodiscard]] static PageRun whole(const Mapping& mapping) {
    return {.first = 0, .count = mapping.pages()};
  }
  [[nodiscard]] std::vector<PageRun> pinned(const Mapping& mapping) const;
  // Everything that is charged for it now, whichever way.
  [[nodiscard]] std::vector<PageRun> charged(const Mapping& mapping) const;

 private:
  const Accounting policy_;
  const unsigned container_;
};

}  // namespace uvfio::iommu::type1
