#include "nodes/tree.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <set>
#include <thread>

namespace uvfio::nodes {
namespace {

Attribute text_attribute(std::string name, std::string text) {
  return {.name = std::move(name),
          .mode = 0444,
          .show = [text = std::move(text)]() -> Result<std::string> { return text; },
          .store = {}};
}

TEST(Tree, FindsWhatWasAdded) {
  const auto root = Directory::make_root();
  const auto directory = root->make_path("a/b/c");
  ASSERT_TRUE(directory);
  ASSERT_TRUE((*directory)->add_link("link", "../x"));
  EXPECT_EQ(root->lookup_path("a/b/c"), *directory);
  EXPECT_EQ(root->make_path("/a/b/c/").value(), *directory);
  EXPECT_EQ((*directory)->parent(), root->lookup_path("a/b"));
  EXPECT_EQ(root->lookup_path("a/x"), nullptr);
  EXPECT_EQ(root->lookup_path("a/b/c/link/deeper"), nullptr);
  EXPECT_EQ(static_cast<const Link&>(*root->lookup_path("a/b/c/link")).target(), "../x");
  EXPECT_EQ(root->subdirectories(), 1u);
}

TEST(Tree, RefusesTakenNamesAndRemovedDirectories) {
  const auto root = Directory::make_root();
  const auto directory = root->add_directory("d").value();
  EXPECT_EQ(root->add_link("d", "x").error(), Errno{EEXIST});
  ASSERT_TRUE(directory->add_link("file", "x"));
  EXPECT_EQ(root->make_path("d/file/e").error(), Errno{EEXIST});
  directory->remove();
  EXPECT_EQ(directory->add_directory("e").error(), Errno{ENOENT});
  EXPECT_EQ(root->lookup("d"), nullptr);
}

TEST(Tree, NumbersNodesOnce) {
  const auto root = Directory::make_root();
  std::set<std::uint64_t> ids{root->id()};
  for (int i = 0; i < 100; ++i) {
    const auto node = root->add_directory("same").value();
    EXPECT_TRUE(ids.insert(node->id()).second);
    EXPECT_NE(node->id(), 1u);
    node->remove();
  }
}

TEST(Tree, KeepsModeAndOwner) {
  const auto root = Directory::make_root();
  const auto node = root->add_device("vfio", {.mode = 0666}, nullptr).value();
  EXPECT_EQ(node->mode(), 0666u);
  node->set_mode(S_IFREG | 0640);
  node->set_uid(7);
  node->set_gid(8);
  EXPECT_EQ(node->mode(), 0640u);
  EXPECT_EQ(node->uid(), 7u);
  EXPECT_EQ(node->gid(), 8u);
}

TEST(Tree, RemovalReachesAllBelow) {
  const auto root = Directory::make_root();
  const auto top = root->add_directory("top").value();
  const auto deep = top->make_path("a/b").value();
  const auto attribute = deep->add_attribute(text_attribute("text", "hello\n")).value();
  const auto device = deep->add_device("dev", {},
                                       [](pid_t, int) -> Result<std::shared_ptr<OpenNode>> {
                                         return std::make_shared<OpenNode>();
                                       })
                          .value();
  EXPECT_EQ(attribute->show().value(), "hello\n");
  EXPECT_TRUE(device->open(1, 0));
  top->remove();
  EXPECT_TRUE(deep->removed());
  EXPECT_EQ(attribute->show().error(), Errno{ENODEV});
  EXPECT_EQ(attribute->store("x").error(), Errno{ENODEV});
  EXPECT_EQ(device->open(1, 0).error(), Errno{ENXIO});
  top->remove();  // once more does no harm
}

TEST(Tree, RemovalOfAnOldNodeLeavesItsSuccessor) {
  const auto root = Directory::make_root();
  const auto old = root->add_directory("x").value();
  old->remove();
  const auto successor = root->add_directory("x").value();
  old->remove();
  EXPECT_EQ(root->lookup("x"), successor);
}

TEST(Attribute, MissingHandlersAreIoErrorsAndLongTextIsCut) {
  const auto root = Directory::make_root();
  const auto empty =
      root->add_attribute({.name = "e", .mode = 0644, .show = {}, .store = {}}).value();
  EXPECT_EQ(empty->show().error(), Errno{EIO});
  EXPECT_EQ(empty->store("1").error(), Errno{EIO});
  const auto longer = root->add_attribute(text_attribute("l", std::string(10000, 'x'))).value();
  EXPECT_EQ(longer->show().value().size(), AttributeNode::kMaxText);
}

TEST(Attribute, RemovalWaitsForHandlers) {
  const auto root = Directory::make_root();
  std::atomic<bool> inside = false, go = false, done = false;
  const auto attribute = root->add_attribute({.name = "slow",
                                              .mode = 0200,
                                              .show = {},
                                              .store = [&](std::string_view) -> Status {
                                                inside = true;
                                                while (!go) std::this_thread::yield();
                                                done = true;
                                                return {};
                                              }})
                             .value();
  std::thread writer([&] { EXPECT_TRUE(attribute->store("1")); });
  while (!inside) std::this_thread::yield();
  std::thread helper([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    go = true;
  });
  attribute->remove();
  EXPECT_TRUE(done);
  writer.join();
  helper.join();
}

TEST(Attribute, MayRemoveItself) {
  const auto root = Directory::make_root();
  const auto directory = root->add_directory("d").value();
  ASSERT_TRUE(directory->add_attribute(
      {.name = "remove", .mode = 0200, .show = {}, .store = [&](std::string_view) -> Status {
         directory->remove();
         return {};
       }}));
  const auto node = std::static_pointer_cast<AttributeNode>(directory->lookup("remove"));
  EXPECT_TRUE(node->store("1"));
  EXPECT_EQ(node->store("1").error(), Errno{ENODEV});
}

TEST(Tree, RefreshesBeforeEachLook) {
  const auto root = Directory::make_root();
  const auto directory = root->add_directory("d").value();
  int looks = 0;
  directory->set_refresh([&](Directory& d) {
    ++looks;
    static_cast<void>(d.add_link(std::to_string(looks), "x"));
  });
  EXPECT_NE(directory->lookup("1"), nullptr);
  EXPECT_EQ(directory->list().size(), 2u);
}

TEST(RelativeTarget, IsWhatSysfsMakes) {
  EXPECT_EQ(relative_target("class/mdev_bus", "devices/virtual/mtty/mtty"),
            "../../devices/virtual/mtty/mtty");
  EXPECT_EQ(relative_target("devices/virtual/mtty/mtty/U", "devices/virtual/mtty/mtty/types/t"),
            "../types/t");
  EXPECT_EQ(relative_target("devices/p/U/vfio-dev/vfio0", "devices/p/U"), "../../../U");
  EXPECT_EQ(relative_target("devices/p/types/t/devices", "devices/p/U"), "../../../U");
}

TEST(OpenNode, HasTheErrorsOfMissingHandlers) {
  OpenNode node;
  EXPECT_EQ(node.read(0, {}).error(), Errno{EINVAL});
  EXPECT_EQ(node.write(0, {}).error(), Errno{EINVAL});
  EXPECT_EQ(node.ioctl(0, 0, 0).error(), Errno{ENOTTY});
}

}  // namespace
}  // namespace uvfio::nodes
