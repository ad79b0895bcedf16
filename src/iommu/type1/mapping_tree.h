// The mappings of one container by IOVA: a B+ tree that readers walk without a lock.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "iommu/type1/mapping.h"

namespace uvfio::iommu::type1 {

// Nodes are never changed once readers can see them: a change copies the path to the root and publishes
// a new root. Changes between two publish() calls share their copies, so bulk work costs one copy a
// node. What was replaced is freed by reclaim(), after a grace period.
class MappingTree {
 public:
  MappingTree() = default;
  ~MappingTree();
  MappingTree(const MappingTree&) = delete;
  MappingTree& operator=(const MappingTree&) = delete;

  // For readers, inside an RCU section: the mapping that contains `iova`, or nullptr.
  [[nodiscard]] Mapping* find(std::uint64_t iova) const {
    return find_in(published_.load(std::memory_order_acquire), iova);
  }
  // For readers: the lowest mapping that ends at or after `iova`, or nullptr.
  [[nodiscard]] Mapping* at_or_after(std::uint64_t iova) const {
    return at_or_after_in(published_.load(std::memory_order_acquire), iova);
  }

  // For the one writer. The tree does not own the mappings, and they must not overlap.
  void insert(Mapping& mapping);
  void erase(Mapping& mapping);
  // Makes all changes visible to readers.
  void publish();
  // Replaced nodes that wait for reclaim().
  [[nodiscard]] std::size_t garbage() const { return retired_.size(); }
  // Frees what was replaced before the last publish(). Only after a grace period since then.
  void reclaim();

  [[nodiscard]] std::size_t size() const { return size_; }
  // As the writer sees it, unpublished changes included.
  [[nodiscard]] Mapping* writer_find(std::uint64_t iova) const { return find_in(working_, iova); }
  [[nodiscard]] Mapping* writer_at_or_after(std::uint64_t iova) const {
    return at_or_after_in(working_, iova);
  }
  // Bytes of heap in nodes.
  [[nodiscard]] std::uint64_t memory_bytes() const;

 private:
  static constexpr unsigned kFanout = 30;  // makes a node 512 bytes
  struct Node;

  static Mapping* find_in(const Node* node, std::uint64_t iova);
  static Mapping* at_or_after_in(const Node* node, std::uint64_t iova);
  static unsigned slot(const Node& node, std::uint64_t iova);

  Node* make_node(bool leaf);
  Node* own(Node* node);
  void retire(Node* node);
  Node* insert_in(Node*& node, Mapping& mapping);
  bool erase_in(Node*& node, const Mapping& mapping);
  void merge_children(Node& parent, unsigned at);
  static void free_subtree(Node* node);

  std::atomic<Node*> published_{nullptr};
  Node* working_ = nullptr;
  std::uint64_t change_ = 1;  // nodes made since the last publish() carry this number
  std::size_t size_ = 0;
  std::size_t nodes_ = 0;
  std::vector<Node*> retired_;
};

}  // namespace uvfio::iommu::type1
