// Mappings on their way out of a container.
#pragma once

#include <memory>
#include <vector>

#include "iommu/type1/type1.h"

namespace uvfio::iommu::type1 {

// What it takes is gone from the tree and from every domain at once, and is freed when the last
// reader has left: one wait for many mappings. Used with Type1's lock held.
class Type1::Removal {
 public:
  explicit Removal(Type1& iommu) : iommu_(iommu) {}
  ~Removal() { finish(); }
  Removal(const Removal&) = delete;

  // Needs publish() before the lock is dropped.
  void take(Mapping& mapping);
  void publish();
  // Nobody reads or writes through the mapping any longer on return.
  void wait_for_readers(const Mapping& mapping);
  // Waits for the last reader and frees.
  void finish();

 private:
  Type1& iommu_;
  std::vector<std::unique_ptr<Mapping>> mappings_;
};

}  // namespace uvfio::iommu::type1
