#include "launcher/topology.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "launcher/models.h"

namespace uvfio::launcher {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr std::string_view kUuid = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";

TEST(ParseMdev, TypeAndUuid) {
  EXPECT_EQ(parse_mdev("mtty-1")->type, "mtty-1");
  EXPECT_FALSE(parse_mdev("mtty-1")->uuid);
  EXPECT_EQ(parse_mdev("mtty-2:" + std::string(kUuid))->uuid, *Uuid::parse(kUuid));
  EXPECT_THAT(parse_mdev("").error(), HasSubstr("names no type"));
  EXPECT_THAT(parse_mdev(":x").error(), HasSubstr("names no type"));
  EXPECT_THAT(parse_mdev("mtty-1:").error(), HasSubstr("is not a UUID"));
  EXPECT_THAT(parse_mdev("mtty-1:1234").error(), HasSubstr("\"1234\" is not a UUID"));
}

TEST(ParseTopology, Devices) {
  const auto topology = parse_topology(R"(
[[mdev]]
type = "mtty-2"
uuid = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"

[[mdev]]
type = "mtty-1"
)",
                                       "t");
  ASSERT_TRUE(topology);
  ASSERT_EQ(topology->mdevs.size(), 2u);
  EXPECT_EQ(topology->mdevs[0].type, "mtty-2");
  EXPECT_EQ(topology->mdevs[0].uuid, *Uuid::parse(kUuid));
  EXPECT_FALSE(topology->mdevs[1].uuid);
  EXPECT_TRUE(parse_topology("", "t"));
}

TEST(ParseTopology, MistakesNameTheirLine) {
  const auto error = [](std::string_view text) { return parse_topology(text, "t.toml").error(); };
  EXPECT_THAT(error("[[mdev]\n"), StartsWith("t.toml:1: "));
  EXPECT_THAT(error("\nmdevs = 1"),
              AllOf(StartsWith("t.toml:2: "), HasSubstr("unknown key \"mdevs\"")));
  EXPECT_THAT(error("mdev = 1"), HasSubstr("[[mdev]]"));
  EXPECT_THAT(error("mdev = [1]"), HasSubstr("[[mdev]]"));
  EXPECT_THAT(error("[[mdev]]\nkind = 'x'"),
              AllOf(StartsWith("t.toml:2: "), HasSubstr("unknown key \"kind\"")));
  EXPECT_THAT(error("[[mdev]]\ntype = 1"),
              AllOf(StartsWith("t.toml:2: "), HasSubstr("must be a string")));
  EXPECT_THAT(error("[[mdev]]\ntype = 'mtty-1'\nuuid = 'x'"),
              AllOf(StartsWith("t.toml:3: "), HasSubstr("UUID")));
  EXPECT_THAT(error("[[mdev]]\n"), HasSubstr("needs a type"));
}

TEST(ReadTopology, SaysWhyItCannot) {
  EXPECT_THAT(read_topology("/nowhere.toml").error(),
              AllOf(HasSubstr("/nowhere.toml"), HasSubstr("No such file")));
}

TEST(CreateDevices, ClearErrors) {
  Host host;
  const auto models = add_models(host);
  ASSERT_TRUE(models);
  const auto uuid = *Uuid::parse(kUuid);
  EXPECT_EQ(create_devices(host, {.mdevs = {{"mtty-1", uuid}, {"mtty-2", {}}}})->size(), 2u);
  EXPECT_THAT(create_devices(host, {.mdevs = {{"gpu-1", {}}}}).error(),
              AllOf(HasSubstr("no mdev type \"gpu-1\""), HasSubstr("mtty-1, mtty-2")));
  EXPECT_THAT(create_devices(host, {.mdevs = {{"mtty-1", uuid}}}).error(),
              HasSubstr("given twice"));
  EXPECT_THAT(create_devices(host, {.mdevs = std::vector<MdevRequest>(12, {"mtty-2", {}})}).error(),
              HasSubstr("no room for another mtty-2"));
}

}  // namespace
}  // namespace uvfio::launcher
