#include "iommu/type1/mapping_tree.h"

#include <algorithm>
#include <array>

namespace uvfio::iommu::type1 {

// keys[i] is not above any IOVA below children[i], and above all of children[i - 1].
struct alignas(64) MappingTree::Node {
  std::uint64_t change = 0;
  std::uint32_t count = 0;
  bool leaf = true;
  std::array<std::uint64_t, kFanout> keys;
  union {
    std::array<Node*, kFanout> children;
    std::array<Mapping*, kFanout> mappings;
  };

  void insert_at(unsigned at, std::uint64_t key, Node* child) {
    std::copy_backward(keys.begin() + at, keys.begin() + count, keys.begin() + count + 1);
    std::copy_backward(children.begin() + at, children.begin() + count, children.begin() + count + 1);
    keys[at] = key;
    children[at] = child;
    ++count;
  }
  void insert_at(unsigned at, std::uint64_t key, Mapping* mapping) {
    std::copy_backward(keys.begin() + at, keys.begin() + count, keys.begin() + count + 1);
    std::copy_backward(mappings.begin() + at, mappings.begin() + count, mappings.begin() + count + 1);
    keys[at] = key;
    mappings[at] = mapping;
    ++count;
  }
  void erase_at(unsigned at) {
    std::copy(keys.begin() + at + 1, keys.begin() + count, keys.begin() + at);
    if (leaf) {
      std::copy(mappings.begin() + at + 1, mappings.begin() + count, mappings.begin() + at);
    } else {
      std::copy(children.begin() + at + 1, children.begin() + count, children.begin() + at);
    }
    --count;
  }
  // Appends entries [from, from + number) of `other`.
  void append(const Node& other, unsigned from, unsigned number) {
    std::copy_n(other.keys.begin() + from, number, keys.begin() + count);
    if (leaf) {
      std::copy_n(other.mappings.begin() + from, number, mappings.begin() + count);
    } else {
      std::copy_n(other.children.begin() + from, number, children.begin() + count);
    }
    count += number;
  }
};

// The last entry whose key is not above `iova`; 0 if there is none.
unsigned MappingTree::slot(const Node& node, std::uint64_t iova) {
  const std::uint64_t* base = node.keys.data();
  for (unsigned length = node.count; length > 1;) {
    const unsigned half = length / 2;
    base += base[half] <= iova ? half : 0;  // a conditional move, not a branch
    length -= half;
  }
  return static_cast<unsigned>(base - node.keys.data());
}

Mapping* MappingTree::find_in(const Node* node, std::uint64_t iova) {
  if (node == nullptr) return nullptr;
  while (!node->leaf) node = node->children[slot(*node, iova)];
  Mapping* mapping = node->mappings[slot(*node, iova)];
  return mapping->first <= iova && iova <= mapping->last ? mapping : nullptr;
}

Mapping* MappingTree::at_or_after_in(const Node* node, std::uint64_t iova) {
  if (node == nullptr) return nullptr;
  const Node* right = nullptr;  // the subtree that follows the path
  while (!node->leaf) {
    const unsigned at = slot(*node, iova);
    if (at + 1 < node->count) right = node->children[at + 1];
    node = node->children[at];
  }
  const unsigned at = slot(*node, iova);
  if (node->mappings[at]->last >= iova) return node->mappings[at];
  if (at + 1 < node->count) return node->mappings[at + 1];
  if (right == nullptr) return nullptr;
  while (!right->leaf) right = right->children[0];
  return right->mappings[0];
}

MappingTree::~MappingTree() {
  // Unpublished changes and published nodes overlap; publishing first leaves one tree and the garbage.
  publish();
  reclaim();
  free_subtree(working_);
}

void MappingTree::free_subtree(Node* node) {
  if (node == nullptr) return;
  if (!node->leaf) std::for_each_n(node->children.begin(), node->count, free_subtree);
  delete node;
}

MappingTree::Node* MappingTree::make_node(bool leaf) {
  Node* node = new Node;
  node->change = change_;
  node->leaf = leaf;
  ++nodes_;
  return node;
}

// A version of `node` that may be changed.
MappingTree::Node* MappingTree::own(Node* node) {
  if (node->change == change_) return node;
  Node* copy = make_node(node->leaf);
  copy->append(*node, 0, node->count);
  retire(node);
  return copy;
}

void MappingTree::retire(Node* node) {
  --nodes_;
  if (node->change == change_) {
    delete node;  // no reader has seen it
  } else {
    retired_.push_back(node);
  }
}

void MappingTree::insert(Mapping& mapping) {
  if (working_ == nullptr) working_ = make_node(true);
  if (Node* sibling = insert_in(working_, mapping)) {
    Node* root = make_node(false);
    root->insert_at(0, working_->keys[0], working_);
    root->insert_at(1, sibling->keys[0], sibling);
    working_ = root;
  }
  ++size_;
}

// Inserts below `node`, which is replaced; returns the right half if it had to be split.
MappingTree::Node* MappingTree::insert_in(Node*& node, Mapping& mapping) {
  node = own(node);
  unsigned at = node->count == 0 ? 0 : slot(*node, mapping.first);
  std::uint64_t key = mapping.first;
  Node* new_child = nullptr;
  if (!node->leaf) {
    new_child = insert_in(node->children[at], mapping);
    node->keys[at] = std::min(node->keys[at], mapping.first);
    if (new_child == nullptr) return nullptr;
    key = new_child->keys[0];
    ++at;
  } else if (node->count != 0 && node->keys[at] < mapping.first) {
    ++at;
  }
  const auto insert_into = [&](Node& target, unsigned index) {
    if (target.leaf) {
      target.insert_at(index, key, &mapping);
    } else {
      target.insert_at(index, key, new_child);
    }
  };
  if (node->count < kFanout) {
    insert_into(*node, at);
    return nullptr;
  }
  // Ascending IOVAs are the usual order: a split at the end keeps nodes full then.
  const unsigned left = at == kFanout ? kFanout : kFanout / 2;
  Node* sibling = make_node(node->leaf);
  sibling->append(*node, left, kFanout - left);
  node->count = left;
  if (at > left || left == kFanout) {
    insert_into(*sibling, at - left);
  } else {
    insert_into(*node, at);
  }
  return sibling;
}

void MappingTree::erase(Mapping& mapping) {
  if (erase_in(working_, mapping)) {
    retire(working_);
    working_ = nullptr;
  }
  while (working_ != nullptr && !working_->leaf && working_->count == 1) {
    Node* only = working_->children[0];
    retire(working_);
    working_ = only;
  }
  --size_;
}

// Returns whether `node` is empty now.
bool MappingTree::erase_in(Node*& node, const Mapping& mapping) {
  node = own(node);
  const unsigned at = slot(*node, mapping.first);
  if (node->leaf) {
    node->erase_at(at);
  } else if (erase_in(node->children[at], mapping)) {
    retire(node->children[at]);
    node->erase_at(at);
  } else if (node->children[at]->count < kFanout / 4) {
    merge_children(*node, at);
  }
  return node->count == 0;
}

// Joins the child at `at` with a neighbour if both fit well into one node.
void MappingTree::merge_children(Node& parent, unsigned at) {
  if (parent.count < 2) return;
  const unsigned left = at == 0 ? 0 : at - 1;
  if (parent.children[left]->count + parent.children[left + 1]->count > kFanout * 3 / 4) return;
  Node* into = parent.children[left] = own(parent.children[left]);
  Node* from = parent.children[left + 1];
  into->append(*from, 0, from->count);
  retire(from);
  parent.erase_at(left + 1);
}

void MappingTree::publish() {
  published_.store(working_, std::memory_order_release);
  ++change_;
}

void MappingTree::reclaim() {
  for (Node* node : retired_) delete node;
  retired_.clear();
}

std::uint64_t MappingTree::memory_bytes() const { return nodes_ * sizeof(Node); }

}  // namespace uvfio::iommu::type1
