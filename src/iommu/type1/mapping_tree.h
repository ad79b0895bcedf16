// The mappings of one container by IOVA: a B+ tree that readers walk without a lock.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "iommu/type1/mapping.h"

namespace uvfio::iommu::type1 {

// Nodes are never changed once readers can see them: a change copies the path to the root and
// publishes a new root. Changes between two publish() calls share their copies, so bulk work costs
// one copy a node. What was replaced is freed by reclaim(), after a grace period.
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

  // A copy of what the mapping at `iova` says, which a reader left with remember(): then the
  // mapping itself need not be touched. Bit 0 and 1 of `host` are its Prot; 0: nothing is
  // remembered.
  struct Remembered {
    std::uint64_t first = 0;
    std::uint64_t last = 0;
    std::uint64_t host = 0;
  };
  [[nodiscard]] Remembered remembered(std::uint64_t iova) const;
  void remember(const Mapping& mapping, std::uint64_t host) const;

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
  struct Node;
  struct Inner;
  struct Leaf;

  static const Leaf* leaf_of(const Node* node, std::uint64_t iova);
  static Mapping* find_in(const Node* node, std::uint64_t iova);
  static Mapping* at_or_after_in(const Node* node, std::uint64_t iova);

  template <typename T>
  T* make_node();
  template <typename T>
  T* own(T* node);
  Node* own(Node* node);
  void retire(Node* node);
  static void free_node(Node* node);
  static void free_subtree(Node* node);
  template <typename T, typename... Entry>
  Node* insert_or_split(T& node, unsigned at, std::uint64_t key, Entry... entry);
  Node* insert_in(Node*& node, Mapping& mapping);
  bool erase_in(Node*& node, const Mapping& mapping);
  void merge_children(Inner& parent, unsigned at);
  template <typename T>
  bool merge(Inner& parent, unsigned left);

  std::atomic<Node*> published_{nullptr};
  Node* working_ = nullptr;
  std::uint64_t change_ = 1;  // nodes made since the last publish() carry this number
  std::size_t size_ = 0;
  std::uint64_t node_bytes_ = 0;
  std::vector<Node*> retired_;
};

}  // namespace uvfio::iommu::type1
