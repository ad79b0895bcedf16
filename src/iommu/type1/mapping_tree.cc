#include "iommu/type1/mapping_tree.h"

#include <algorithm>
#include <array>
#include <atomic>

namespace uvfio::iommu::type1 {
namespace {

constexpr unsigned kLine = 8;  // keys in a cache line

// How many of so many ascending keys are not above `iova`. No step waits for the one before.
template <unsigned Number>
[[gnu::always_inline]] inline unsigned not_above(const std::uint64_t* keys, std::uint64_t iova) {
  unsigned result = 0;
#pragma GCC unroll 8
  for (unsigned i = 0; i < Number; ++i) result += keys[i] <= iova ? 1 : 0;
  return result;
}

// Makes room for one entry at `at` in a column of `count` entries.
template <typename Column>
void open_gap(Column& column, unsigned at, unsigned count) {
  std::copy_backward(column.begin() + at, column.begin() + count, column.begin() + count + 1);
}
template <typename Column>
void close_gap(Column& column, unsigned at, unsigned count) {
  std::copy(column.begin() + at + 1, column.begin() + count, column.begin() + at);
}

}  // namespace

// In every node keys[i] is not above any IOVA of entry i, and above all of entry i - 1. The first
// cache line says in which of the next ones to look, so that a search in a cold node waits for
// memory twice: marks[i] repeats key (i + 1) * kLine.
struct MappingTree::Node {
  static constexpr std::uint64_t kNoKey = UINT64_MAX;  // beyond the last one

  std::uint64_t change : 48 = 0;
  std::uint64_t count : 15 = 0;
  const std::uint64_t is_leaf : 1;
  std::array<std::uint64_t, kLine - 1> marks;

 protected:
  explicit Node(bool leaf) : is_leaf(leaf) { marks.fill(kNoKey); }

  // The last key that is not above `iova`; 0 if there is none.
  template <typename Keys>
  [[nodiscard]] unsigned slot_in(const Keys& keys, std::uint64_t iova) const {
    const unsigned line = std::min(not_above<kLine - 1>(marks.data(), iova) * kLine,
                                   static_cast<unsigned>(keys.size()) - kLine);
    const unsigned found = line + not_above<kLine>(keys.data() + line, iova);
    // Not what stands behind the last key, if `iova` is the last there is.
    return found == 0 ? 0 : std::min(found, static_cast<unsigned>(count)) - 1;
  }
  // After any change of keys or count.
  template <typename Keys>
  void mark(Keys& keys) {
    std::fill(keys.begin() + count, keys.end(), kNoKey);
    for (unsigned i = kLine; i < keys.size(); i += kLine) marks[i / kLine - 1] = keys[i];
  }
};

struct alignas(64) MappingTree::Inner : Node {
  static constexpr unsigned kFanout = 56;
  static_assert(kFanout % kLine == 0 && kFanout <= kLine * kLine);
  Inner() : Node(false) { mark(); }

  [[nodiscard]] unsigned slot(std::uint64_t iova) const { return slot_in(keys, iova); }
  void mark() { Node::mark(keys); }
  void truncate(unsigned number) {
    count = number;
    mark();
  }
  void insert_at(unsigned at, std::uint64_t key, Node* child) {
    open_gap(keys, at, count);
    open_gap(children, at, count);
    keys[at] = key;
    children[at] = child;
    truncate(count + 1);
  }
  void erase_at(unsigned at) {
    close_gap(keys, at, count);
    close_gap(children, at, count);
    truncate(count - 1);
  }
  // Appends entries [from, from + number) of `other`.
  void append(const Inner& other, unsigned from, unsigned number) {
    std::copy_n(other.keys.begin() + from, number, keys.begin() + count);
    std::copy_n(other.children.begin() + from, number, children.begin() + count);
    truncate(count + number);
  }

  std::array<std::uint64_t, kFanout> keys;
  std::array<Node*, kFanout> children;
};

struct alignas(64) MappingTree::Leaf : Node {
  static constexpr unsigned kFanout = 32;
  static_assert(kFanout % kLine == 0 && kFanout <= kLine * kLine);
  Leaf() : Node(true) { mark(); }

  [[nodiscard]] unsigned slot(std::uint64_t iova) const { return slot_in(keys, iova); }
  void mark() { Node::mark(keys); }
  void truncate(unsigned number) {
    count = number;
    mark();
  }
  void insert_at(unsigned at, std::uint64_t key, Mapping* mapping) {
    open_gap(keys, at, count);
    open_gap(pages, at, count);
    open_gap(hosts, at, count);
    open_gap(mappings, at, count);
    keys[at] = key;
    pages[at] = static_cast<std::uint32_t>(std::min<std::uint64_t>(mapping->pages(), kManyPages));
    hosts[at] = 0;
    mappings[at] = mapping;
    truncate(count + 1);
  }
  void erase_at(unsigned at) {
    close_gap(keys, at, count);
    close_gap(pages, at, count);
    close_gap(hosts, at, count);
    close_gap(mappings, at, count);
    truncate(count - 1);
  }
  void append(const Leaf& other, unsigned from, unsigned number) {
    std::copy_n(other.keys.begin() + from, number, keys.begin() + count);
    std::copy_n(other.pages.begin() + from, number, pages.begin() + count);
    std::copy_n(other.mappings.begin() + from, number, mappings.begin() + count);
    for (unsigned i = 0; i < number; ++i)
      hosts[count + i] = other.host(from + i).load(std::memory_order_relaxed);
    truncate(count + number);
  }
  // Readers write it, too: see remember().
  [[nodiscard]] std::atomic_ref<std::uint64_t> host(unsigned at) const {
    return std::atomic_ref(hosts[at]);
  }

  // The bits of `hosts` between a page's address and its Prot repeat the number of pages, if it is
  // small: one cache line less to look at. All ones: look at `pages`.
  static constexpr unsigned kPagesShift = 2;
  static constexpr std::uint64_t kFewPages = (memory::kPageSize - 1) >> kPagesShift << kPagesShift;
  static constexpr std::uint64_t kManyPages = UINT32_MAX;  // this many or more: ask the mapping
  std::array<std::uint64_t, kFanout> keys;
  std::array<std::uint32_t, kFanout> pages;
  mutable std::array<std::uint64_t, kFanout> hosts;
  std::array<Mapping*, kFanout> mappings;
};

const MappingTree::Leaf* MappingTree::leaf_of(const Node* node, std::uint64_t iova) {
  while (!node->is_leaf) {
    const auto& inner = static_cast<const Inner&>(*node);
    node = inner.children[inner.slot(iova)];
  }
  return static_cast<const Leaf*>(node);
}

Mapping* MappingTree::find_in(const Node* node, std::uint64_t iova) {
  if (node == nullptr) return nullptr;
  const Leaf& leaf = *leaf_of(node, iova);
  Mapping* mapping = leaf.mappings[leaf.slot(iova)];
  return mapping->first <= iova && iova <= mapping->last ? mapping : nullptr;
}

MappingTree::Remembered MappingTree::remembered(std::uint64_t iova) const {
  const Node* root = published_.load(std::memory_order_acquire);
  if (root == nullptr) return {};
  const Leaf& leaf = *leaf_of(root, iova);
  const unsigned at = leaf.slot(iova);
  const std::uint64_t first = leaf.keys[at];
  const std::uint64_t word = leaf.host(at).load(std::memory_order_acquire);
  std::uint64_t pages = (word & Leaf::kFewPages) >> Leaf::kPagesShift;
  if (word == 0) return {};
  if (pages == Leaf::kFewPages >> Leaf::kPagesShift) [[unlikely]] {
    pages = leaf.pages[at];
    if (pages == Leaf::kManyPages) return {};
  }
  const std::uint64_t last = first + (pages * memory::kPageSize - 1);
  if (iova < first || iova > last) return {};
  return {.first = first, .last = last, .host = word & ~Leaf::kFewPages};
}

// Idempotent, so readers need not agree who does it, nor whether the node is replaced meanwhile.
void MappingTree::remember(const Mapping& mapping, std::uint64_t host) const {
  const Node* root = published_.load(std::memory_order_acquire);
  if (root == nullptr) return;
  const Leaf& leaf = *leaf_of(root, mapping.first);
  const unsigned at = leaf.slot(mapping.first);
  // The mapping may have gone from the tree since it was found, and another one stand in its place.
  if (leaf.mappings[at] != &mapping || (host & Leaf::kFewPages) != 0) return;
  const std::uint64_t pages = std::min(mapping.pages() << Leaf::kPagesShift, Leaf::kFewPages);
  leaf.host(at).store(host | pages, std::memory_order_release);
}

Mapping* MappingTree::at_or_after_in(const Node* node, std::uint64_t iova) {
  if (node == nullptr) return nullptr;
  const Node* right = nullptr;  // the subtree that follows the path
  while (!node->is_leaf) {
    const auto& inner = static_cast<const Inner&>(*node);
    const unsigned at = inner.slot(iova);
    if (at + 1 < inner.count) right = inner.children[at + 1];
    node = inner.children[at];
  }
  const auto& leaf = static_cast<const Leaf&>(*node);
  const unsigned at = leaf.slot(iova);
  if (leaf.mappings[at]->last >= iova) return leaf.mappings[at];
  if (at + 1 < leaf.count) return leaf.mappings[at + 1];
  return right == nullptr ? nullptr : leaf_of(right, 0)->mappings[0];
}

MappingTree::~MappingTree() {
  // Unpublished changes and published nodes overlap; publishing first leaves one tree and the
  // garbage.
  publish();
  reclaim();
  free_subtree(working_);
}

void MappingTree::free_node(Node* node) {
  if (node->is_leaf) {
    delete static_cast<Leaf*>(node);
  } else {
    delete static_cast<Inner*>(node);
  }
}

void MappingTree::free_subtree(Node* node) {
  if (node == nullptr) return;
  if (!node->is_leaf) {
    auto& inner = static_cast<Inner&>(*node);
    std::for_each_n(inner.children.begin(), inner.count, free_subtree);
  }
  free_node(node);
}

template <typename T>
T* MappingTree::make_node() {
  T* node = new T;
  node->change = change_;
  node_bytes_ += sizeof(T);
  return node;
}

// A version of `node` that may be changed.
template <typename T>
T* MappingTree::own(T* node) {
  if (node->change == change_) return node;
  T* copy = make_node<T>();
  copy->append(*node, 0, node->count);
  retire(node);
  return copy;
}

MappingTree::Node* MappingTree::own(Node* node) {
  if (node->is_leaf) return own(static_cast<Leaf*>(node));
  return own(static_cast<Inner*>(node));
}

void MappingTree::retire(Node* node) {
  node_bytes_ -= node->is_leaf ? sizeof(Leaf) : sizeof(Inner);
  if (node->change == change_) {
    free_node(node);  // no reader has seen it
  } else {
    retired_.push_back(node);
  }
}

void MappingTree::insert(Mapping& mapping) {
  if (working_ == nullptr) working_ = make_node<Leaf>();
  if (Node* sibling = insert_in(working_, mapping)) {
    const auto key_of = [](const Node* node) {
      return node->is_leaf ? static_cast<const Leaf*>(node)->keys[0]
                           : static_cast<const Inner*>(node)->keys[0];
    };
    auto* root = make_node<Inner>();
    root->insert_at(0, key_of(working_), working_);
    root->insert_at(1, key_of(sibling), sibling);
    working_ = root;
  }
  ++size_;
}

// Adds an entry to a node that may be changed; returns the right half if it had to be split.
template <typename T, typename... Entry>
MappingTree::Node* MappingTree::insert_or_split(T& node, unsigned at, std::uint64_t key,
                                                Entry... entry) {
  if (node.count < T::kFanout) {
    node.insert_at(at, key, entry...);
    return nullptr;
  }
  // Ascending IOVAs are the usual order: a split at the end keeps nodes full then.
  const unsigned left = at == T::kFanout ? T::kFanout : T::kFanout / 2;
  T* sibling = make_node<T>();
  sibling->append(node, left, T::kFanout - left);
  node.truncate(left);
  if (at > left || left == T::kFanout) {
    sibling->insert_at(at - left, key, entry...);
  } else {
    node.insert_at(at, key, entry...);
  }
  return sibling;
}

// Inserts below `node`, which is replaced; returns the right half if it had to be split.
MappingTree::Node* MappingTree::insert_in(Node*& node, Mapping& mapping) {
  node = own(node);
  if (node->is_leaf) {
    auto& leaf = static_cast<Leaf&>(*node);
    unsigned at = leaf.count == 0 ? 0 : leaf.slot(mapping.first);
    if (leaf.count != 0 && leaf.keys[at] < mapping.first) ++at;
    return insert_or_split(leaf, at, mapping.first, &mapping);
  }
  auto& inner = static_cast<Inner&>(*node);
  const unsigned at = inner.slot(mapping.first);
  Node* right_half = insert_in(inner.children[at], mapping);
  inner.keys[at] = std::min(inner.keys[at], mapping.first);
  inner.mark();
  if (right_half == nullptr) return nullptr;
  const std::uint64_t key = right_half->is_leaf ? static_cast<Leaf*>(right_half)->keys[0]
                                                : static_cast<Inner*>(right_half)->keys[0];
  return insert_or_split(inner, at + 1, key, right_half);
}

void MappingTree::erase(Mapping& mapping) {
  if (erase_in(working_, mapping)) {
    retire(working_);
    working_ = nullptr;
  }
  while (working_ != nullptr && !working_->is_leaf && working_->count == 1) {
    Node* only = static_cast<Inner*>(working_)->children[0];
    retire(working_);
    working_ = only;
  }
  --size_;
}

// Returns whether `node` is empty now.
bool MappingTree::erase_in(Node*& node, const Mapping& mapping) {
  node = own(node);
  if (node->is_leaf) {
    auto& leaf = static_cast<Leaf&>(*node);
    leaf.erase_at(leaf.slot(mapping.first));
    return leaf.count == 0;
  }
  auto& inner = static_cast<Inner&>(*node);
  const unsigned at = inner.slot(mapping.first);
  if (erase_in(inner.children[at], mapping)) {
    retire(inner.children[at]);
    inner.erase_at(at);
  } else {
    merge_children(inner, at);
  }
  return inner.count == 0;
}

// Joins a child that has become small with a neighbour if both fit well into one node.
void MappingTree::merge_children(Inner& parent, unsigned at) {
  if (parent.count < 2) return;
  const unsigned left = at == 0 ? 0 : at - 1;
  if (parent.children[at]->is_leaf ? merge<Leaf>(parent, left) : merge<Inner>(parent, left)) {
    parent.erase_at(left + 1);
  }
}

template <typename T>
bool MappingTree::merge(Inner& parent, unsigned left) {
  const unsigned both = parent.children[left]->count + parent.children[left + 1]->count;
  if (both > T::kFanout / 2) return false;
  T* into = own(static_cast<T*>(parent.children[left]));
  parent.children[left] = into;
  auto* from = static_cast<T*>(parent.children[left + 1]);
  into->append(*from, 0, from->count);
  retire(from);
  return true;
}

void MappingTree::publish() {
  published_.store(working_, std::memory_order_release);
  ++change_;
}

void MappingTree::reclaim() {
  for (Node* node : retired_) free_node(node);
  retired_.clear();
}

std::uint64_t MappingTree::memory_bytes() const { return node_bytes_; }

}  // namespace uvfio::iommu::type1
