#include "launcher/topology.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "launcher/models.h"
#include "launcher/pci_functions.h"

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

TEST(ParsePci, ModelKeysAndAddress) {
  const auto plain = parse_pci("edu");
  ASSERT_TRUE(plain);
  EXPECT_EQ(plain->model, "edu");
  EXPECT_FALSE(plain->address);
  EXPECT_EQ(plain->driver, "vfio-pci");
  const auto full = parse_pci("edu,dma_mask=0xff,driver=none,group=g,iommu=i@01:02.3");
  ASSERT_TRUE(full);
  EXPECT_EQ(full->address->to_string(), "0000:01:02.3");
  EXPECT_EQ(full->keys, (ModelKeys{{"dma_mask", "0xff"}}));
  EXPECT_EQ(full->driver, "none");
  EXPECT_EQ(full->group, "g");
  EXPECT_EQ(full->iommu, "i");
  EXPECT_EQ(parse_pci("x,file=a@b.img")->keys.at("file"), "a@b.img");
  EXPECT_EQ(parse_pci("x,file=a@b.img@0000:01:00.0")->keys.at("file"), "a@b.img");
  EXPECT_EQ(parse_pci("x,address=02:00.0")->address->to_string(), "0000:02:00.0");
  EXPECT_THAT(parse_pci("").error(), HasSubstr("names no model"));
  EXPECT_THAT(parse_pci("@0000:01:00.0").error(), HasSubstr("names no model"));
  EXPECT_THAT(parse_pci("edu@01:00").error(), HasSubstr("\"01:00\" is not a PCI address"));
  EXPECT_THAT(parse_pci("edu,address=x").error(), HasSubstr("\"x\" is not a PCI address"));
  EXPECT_THAT(parse_pci("edu,a").error(), HasSubstr("\"a\" is not KEY=VALUE"));
  EXPECT_THAT(parse_pci("edu,=a").error(), HasSubstr("is not KEY=VALUE"));
  EXPECT_THAT(parse_pci("edu,driver=").error(), HasSubstr("\"driver\" is empty"));
}

TEST(ParseTopology, FunctionsAndIommus) {
  const auto topology = parse_topology(R"(
[[iommu]]
name = "a"
implementation = "other"
page_sizes = [4096, 0x40000000]
aperture = [0x1000, 0xffffffff]
reserved = [{ first = 0x2000, last = 0x2fff, kind = "direct-relaxable" }]
snoop_control = false
isolated_msi = false
table_limit = 65536

[[pci]]
model = "nvme"
address = "0000:01:00.1"
iommu = "a"
queues = 3
mappable = true
)",
                                       "t");
  ASSERT_TRUE(topology);
  ASSERT_EQ(topology->iommus.size(), 1u);
  const auto& unit = topology->iommus[0];
  EXPECT_EQ(unit.name, "a");
  EXPECT_EQ(unit.implementation, "other");
  EXPECT_EQ(unit.page_sizes, 0x40001000u);
  EXPECT_EQ(unit.aperture_first, 0x1000u);
  EXPECT_EQ(unit.aperture_last, 0xffffffffu);
  ASSERT_EQ(unit.reserved.size(), 1u);
  EXPECT_EQ(unit.reserved[0].last, 0x2fffu);
  EXPECT_EQ(unit.reserved[0].kind, iommu::ReservedRegion::Kind::direct_relaxable);
  EXPECT_FALSE(unit.snoop_control);
  EXPECT_FALSE(unit.isolated_msi);
  EXPECT_EQ(unit.table_limit, 65536u);
  ASSERT_EQ(topology->functions.size(), 1u);
  EXPECT_EQ(topology->functions[0].iommu, "a");
  EXPECT_EQ(topology->functions[0].keys, (ModelKeys{{"queues", "3"}, {"mappable", "1"}}));
}

TEST(ParseTopology, MistakesInFunctionsAndIommus) {
  const auto error = [](std::string_view text) { return parse_topology(text, "t.toml").error(); };
  EXPECT_THAT(error("[[pci]]\n"), HasSubstr("needs a model"));
  EXPECT_THAT(error("[[pci]]\nmodel = 'edu'\naddress = 'x'"),
              AllOf(StartsWith("t.toml:3: "), HasSubstr("is not a PCI address")));
  EXPECT_THAT(error("[[pci]]\nmodel = 1"), HasSubstr("must be a string"));
  EXPECT_THAT(error("[[pci]]\nmodel = 'edu'\ndriver = true"),
              AllOf(StartsWith("t.toml:3: "), HasSubstr("must be a string")));
  EXPECT_THAT(error("[[pci]]\nmodel = 'edu'\ndma_mask = [1]"),
              HasSubstr("must be a string, number or boolean"));
  EXPECT_THAT(error("[[pci]]\nmodel = 'edu'\nadress = 'x'"),
              AllOf(StartsWith("t.toml:3: "), HasSubstr("dma_mask, address, driver")));
  EXPECT_THAT(error("[[iommu]]\nname='a'\n[[iommu]]\nname='a'"),
              AllOf(StartsWith("t.toml:3: "), HasSubstr("given twice")));
  EXPECT_THAT(error("[[iommu]]\n"), HasSubstr("needs a name"));
  EXPECT_THAT(error("[[iommu]]\nsize = 1"),
              AllOf(StartsWith("t.toml:2: "), HasSubstr("unknown key \"size\" in [[iommu]]")));
  for (const char* line :
       {"page_sizes = [8192]", "page_sizes = []", "aperture = [1]", "aperture = [2, 1]",
        "aperture = [-1, 1]", "reserved = [{ first = 1 }]", "snoop_control = 1", "table_limit = -1",
        "reserved = [{ first = 1, last = 2, kind = 'x' }]", "name = 1"}) {
    EXPECT_THAT(error(std::string("[[iommu]]\n") + line),
                AllOf(StartsWith("t.toml:2: "), HasSubstr("must be")))
        << line;
  }
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

TEST(ParseTopology, Type1) {
  const auto topology = parse_topology(
      "[type1]\ndma_entry_limit = 2\ndisable_hugepages = true\naccounting = 'address-space'", "t");
  ASSERT_TRUE(topology);
  Host host;
  ASSERT_TRUE(apply(topology->type1, host));
  EXPECT_EQ(host.type1_parameters().show("dma_entry_limit"), "2");
  EXPECT_EQ(host.type1_parameters().show("disable_hugepages"), "Y");
  EXPECT_EQ(host.type1_parameters().show("accounting"), "address-space");
  EXPECT_THAT(parse_topology("type1 = 1", "t.toml").error(),
              AllOf(StartsWith("t.toml:1: "), HasSubstr("[type1]")));
  EXPECT_THAT(parse_topology("[type1]\nx = [1]", "t.toml").error(),
              AllOf(StartsWith("t.toml:2: "), HasSubstr("\"x\"")));
  EXPECT_THAT(apply({{.name = "x", .value = "1"}}, host).error(), HasSubstr("dma_entry_limit"));
  EXPECT_THAT(apply({{.name = "dma_entry_limit", .value = "-1"}}, host).error(),
              AllOf(HasSubstr("\"-1\""), HasSubstr("now it is 2")));
}

TEST(ParseType1Setting, NameAndValue) {
  const auto setting = parse_type1_setting("a=b=c");
  ASSERT_TRUE(setting);
  EXPECT_EQ(setting->name, "a");
  EXPECT_EQ(setting->value, "b=c");
  EXPECT_THAT(parse_type1_setting("a").error(), HasSubstr("NAME=VALUE"));
  EXPECT_FALSE(parse_type1_setting("=b"));
}

TEST(ReadTopology, AnEmptyFileAsksForNothing) {
  const auto topology = read_topology("/dev/null");
  ASSERT_TRUE(topology) << topology.error();
  EXPECT_TRUE(topology->functions.empty());
}

TEST(ReadTopology, SaysWhyItCannot) {
  EXPECT_THAT(read_topology("/").error(), HasSubstr("directory"));
  EXPECT_THAT(read_topology("/nowhere.toml").error(),
              AllOf(HasSubstr("/nowhere.toml"), HasSubstr("No such file")));
}

TEST(CreateDevices, ClearErrors) {
  Host host;
  const auto models = add_models(host);
  ASSERT_TRUE(models);
  const auto uuid = *Uuid::parse(kUuid);
  EXPECT_EQ(create_devices(host, {.mdevs = {{"mtty-1", uuid, {}}, {"mtty-2", {}, {}}}})->size(),
            2u);
  EXPECT_THAT(
      create_devices(host, {.mdevs = {{"gpu-1", {}, "t:3"}}}).error(),
      AllOf(StartsWith("t:3: "), HasSubstr("no mdev type \"gpu-1\""), HasSubstr("mtty-1, mtty-2")));
  EXPECT_THAT(create_devices(host, {.mdevs = {{"mtty-1", uuid, {}}}}).error(),
              HasSubstr("given twice"));
  EXPECT_THAT(
      create_devices(host, {.mdevs = std::vector<MdevRequest>(12, {"mtty-2", {}, {}})}).error(),
      HasSubstr("no room for another mtty-2"));
}

class PciFunctionsTest : public testing::Test {
 protected:
  Outcome<std::unique_ptr<PciFunctions>> create(std::string_view text) {
    const auto topology = parse_topology(text, "t");
    if (!topology) return std::unexpected(topology.error());
    return PciFunctions::create(host_, *topology);
  }
  Host host_;
};

TEST_F(PciFunctionsTest, EachGetsItsPlaceAndItsDriver) {
  const auto functions = create(R"(
[[pci]]
model = "edu"
address = "0000:f0:00.0"
[[pci]]
model = "edu"
driver = "none"
[[pci]]
model = "edu"
driver = "anything"
)");
  ASSERT_TRUE(functions);
  const auto& devices = (*functions)->devices();
  ASSERT_EQ(devices.size(), 3u);
  EXPECT_EQ(devices[0]->name(), "0000:f0:00.0");
  EXPECT_EQ(devices[0]->driver()->name(), "vfio-pci");
  EXPECT_EQ(devices[0]->driver_override(), std::nullopt);
  EXPECT_EQ(devices[1]->driver(), nullptr);
  EXPECT_EQ(devices[1]->address().device, 0u);
  EXPECT_EQ(devices[2]->address().device, 1u);
  EXPECT_EQ(devices[2]->driver()->name(), "anything");
  EXPECT_FALSE(devices[2]->iommu_group()->dma_owner_claimable());
  EXPECT_TRUE(host_.pci().autoprobe());
  ASSERT_EQ(host_.vfio().groups().size(), 1u);
}

TEST_F(PciFunctionsTest, MistakesAreTold) {
  EXPECT_THAT(create("\n[[pci]]\nmodel='x'").error(),
              AllOf(StartsWith("t:2: "), HasSubstr("there is no PCI model \"x\"")));
  EXPECT_THAT(create("[[pci]]\nmodel='edu'\naddress='0000:f0:00.0'\n"
                     "[[pci]]\nmodel='edu'\naddress='0000:f0:00.0'")
                  .error(),
              AllOf(StartsWith("t:4: "), HasSubstr("given twice")));
  EXPECT_THAT(create("[[pci]]\nmodel='edu'\nz=1").error(), HasSubstr("edu has no key \"z\""));
  EXPECT_THAT(create("[[pci]]\nmodel='edu'\niommu='z'").error(), HasSubstr("no IOMMU \"z\""));
  EXPECT_THAT(create("[[iommu]]\nname='a'\n[[iommu]]\nname='a'").error(), HasSubstr("given twice"));
  EXPECT_THAT(create(R"(
[[iommu]]
name = "a"
[[iommu]]
name = "b"
[[pci]]
model = "edu"
group = "g"
[[pci]]
model = "edu"
group = "g"
iommu = "b"
)")
                  .error(),
              HasSubstr("behind another IOMMU"));
}

}  // namespace
}  // namespace uvfio::launcher
