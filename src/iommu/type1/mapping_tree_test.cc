#include "iommu/type1/mapping_tree.h"

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <random>
#include <thread>

#include "base/rcu.h"

namespace uvfio::iommu::type1 {
namespace {

std::unique_ptr<Mapping> make(std::uint64_t iova, std::uint64_t size) {
  return std::make_unique<Mapping>(iova, 0, size, vfio::Prot::read, false, nullptr);
}

TEST(MappingTree, EmptyFindsNothing) {
  const MappingTree tree;
  EXPECT_EQ(tree.find(0), nullptr);
  EXPECT_EQ(tree.at_or_after(0), nullptr);
}

TEST(MappingTree, ChangesShowWhenPublished) {
  MappingTree tree;
  const auto mapping = make(0x1000, 0x1000);
  tree.insert(*mapping);
  EXPECT_EQ(tree.find(0x1000), nullptr);
  EXPECT_EQ(tree.writer_find(0x1fff), mapping.get());
  tree.publish();
  EXPECT_EQ(tree.find(0x1000), mapping.get());
  EXPECT_EQ(tree.find(0xfff), nullptr);
  EXPECT_EQ(tree.find(0x2000), nullptr);
  EXPECT_EQ(tree.at_or_after(0), mapping.get());
  EXPECT_EQ(tree.at_or_after(0x2000), nullptr);
}

TEST(MappingTree, HoldsTheLastPageOfTheAddressSpace) {
  MappingTree tree;
  const auto last = make(~std::uint64_t{0} - 0xfff, 0x1000);
  tree.insert(*last);
  EXPECT_EQ(tree.writer_find(~std::uint64_t{0}), last.get());
  EXPECT_EQ(tree.writer_at_or_after(~std::uint64_t{0}), last.get());
}

TEST(MappingTree, RemembersTranslationsOfAnySize) {
  MappingTree tree;
  std::vector<std::unique_ptr<Mapping>> mappings;
  std::uint64_t iova = 0x1000;
  for (const std::uint64_t pages : {1u, 2u, 1022u, 1023u, 1024u, 100'000u, UINT32_MAX - 1}) {
    mappings.push_back(make(iova, pages * 0x1000));
    tree.insert(*mappings.back());
    iova += (pages + 1) * 0x1000;
  }
  tree.publish();
  const rcu::ReadGuard guard;
  for (const auto& mapping : mappings) {
    EXPECT_EQ(tree.remembered(mapping->first).host, 0u);  // nothing so far
    const std::uint64_t host = 0x7f0000000000 | static_cast<std::uint64_t>(vfio::Prot::read);
    tree.remember(*mapping, host);
    for (const std::uint64_t at : {mapping->first, mapping->first + 5, mapping->last}) {
      const auto known = tree.remembered(at);
      EXPECT_EQ(known.host, host);
      EXPECT_EQ(known.first, mapping->first);
      EXPECT_EQ(known.last, mapping->last);
    }
    EXPECT_EQ(tree.remembered(mapping->last + 1).host, 0u);
    EXPECT_EQ(tree.remembered(mapping->first - 1).host, 0u);
  }
}

// Against std::map, with publish and reclaim at random moments.
TEST(MappingTree, BehavesAsAnOrderedMap) {
  std::mt19937_64 random(1);
  for (const std::uint64_t slots : {40u, 400u, 20000u}) {
    MappingTree tree;
    std::map<std::uint64_t, std::unique_ptr<Mapping>> model;
    std::vector<std::unique_ptr<Mapping>> removed;
    for (int step = 0; step < 60000; ++step) {
      const std::uint64_t iova = random() % slots * 0x3000;
      if (const auto found = model.find(iova); found == model.end()) {
        auto mapping = make(iova, 0x1000 + random() % 2 * 0x1000);
        tree.insert(*mapping);
        model.emplace(iova, std::move(mapping));
      } else if (random() % 3 != 0 || step > 40000) {
        tree.erase(*found->second);
        removed.push_back(std::move(found->second));
        model.erase(found);
      }
      if (random() % 4 == 0) tree.publish();
      if (random() % 64 == 0) {
        tree.publish();
        tree.reclaim();
      }
      ASSERT_EQ(tree.size(), model.size());
      const std::uint64_t probe = random() % (slots * 0x3000);
      auto after = model.upper_bound(probe);
      Mapping* expected_find = nullptr;
      Mapping* expected_after = after == model.end() ? nullptr : after->second.get();
      if (after != model.begin()) {
        Mapping* before = std::prev(after)->second.get();
        if (before->last >= probe) expected_find = expected_after = before;
      }
      ASSERT_EQ(tree.writer_find(probe), expected_find);
      ASSERT_EQ(tree.writer_at_or_after(probe), expected_after);
    }
  }
}

TEST(MappingTree, ReadersSeeAWholeTreeWhileItChanges) {
  MappingTree tree;
  std::vector<std::unique_ptr<Mapping>> mappings;
  for (std::uint64_t i = 0; i < 2000; ++i) mappings.push_back(make(i * 0x1000, 0x1000));
  for (std::uint64_t i = 0; i < 2000; i += 2) tree.insert(*mappings[i]);
  tree.publish();
  std::atomic<bool> stop = false;
  std::jthread reader([&] {
    std::mt19937_64 random(2);
    while (!stop) {
      const rcu::ReadGuard guard;
      const std::uint64_t even = random() % 1000 * 2;  // these stay all the time
      ASSERT_EQ(tree.find(even * 0x1000), mappings[even].get());
    }
  });
  for (int round = 0; round < 20; ++round) {
    for (std::uint64_t i = 1; i < 2000; i += 2) {
      round % 2 == 0 ? tree.insert(*mappings[i]) : tree.erase(*mappings[i]);
      tree.publish();
      if (tree.garbage() > 100) {
        rcu::synchronize();
        tree.reclaim();
      }
    }
  }
  stop = true;
}

}  // namespace
}  // namespace uvfio::iommu::type1
