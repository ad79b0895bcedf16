#include "pci/function.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/pci_regs.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <bit>
#include <csignal>
#include <cstring>
#include <map>
#include <optional>

#include "pci/model_for_test.h"

namespace uvfio::pci {
namespace {

using ::testing::ElementsAre;
using Access = TestModel::Access;

class Sink final : public InterruptSink {
 public:
  void message(unsigned vector) override { messages.push_back(vector); }
  void intx(bool asserted) override { levels.push_back(asserted); }
  std::vector<unsigned> messages;
  std::vector<bool> levels;
};

class FunctionTest : public testing::Test {
 protected:
  FunctionTest() { plug(everything()); }
  void plug(Description description) {
    function_.reset();
    auto model = std::make_unique<TestModel>(std::move(description));
    model_ = model.get();
    auto function = Function::create(std::move(model));
    ASSERT_TRUE(function);
    function_ = std::move(*function);
    function_->set_interrupt_sink(&sink_);
  }
  [[nodiscard]] std::uint32_t get(unsigned offset, std::uint8_t width) {
    return function_->config_get(static_cast<std::uint16_t>(offset), width);
  }
  void set(unsigned offset, std::uint8_t width, std::uint32_t value) {
    function_->config_set(static_cast<std::uint16_t>(offset), width, value);
  }
  void command(std::uint32_t bits) { set(PCI_COMMAND, 2, bits); }
  // Walks the list: offset by id.
  std::map<unsigned, unsigned> capabilities() {
    std::map<unsigned, unsigned> all;
    for (unsigned at = get(PCI_CAPABILITY_LIST, 1); at != 0 && all.size() < 48;
         at = get(at + 1, 1)) {
      all[get(at, 1)] = at;
    }
    return all;
  }
  std::uint64_t read(unsigned bar, std::uint64_t offset, std::size_t width) {
    std::uint64_t value = 0;
    EXPECT_TRUE(function_->bar_read(bar, offset,
                                    std::as_writable_bytes(std::span(&value, 1)).first(width)));
    return value;
  }
  void write(unsigned bar, std::uint64_t offset, std::size_t width, std::uint64_t value) {
    EXPECT_TRUE(
        function_->bar_write(bar, offset, std::as_bytes(std::span(&value, 1)).first(width)));
  }

  Sink sink_;
  TestModel* model_ = nullptr;
  std::unique_ptr<Function> function_;
};

TEST_F(FunctionTest, HeaderSaysWhatItIs) {
  EXPECT_EQ(get(PCI_VENDOR_ID, 4), 0x56781234u);
  EXPECT_EQ(get(PCI_CLASS_REVISION, 4), 0x01080203u);
  EXPECT_EQ(get(PCI_SUBSYSTEM_VENDOR_ID, 4), 0xdef09abcu);
  EXPECT_EQ(get(PCI_HEADER_TYPE, 1), unsigned{PCI_HEADER_TYPE_NORMAL});
  EXPECT_EQ(get(PCI_INTERRUPT_PIN, 1), 1u);
  EXPECT_EQ(get(PCI_COMMAND, 2), 0u);
  EXPECT_EQ(get(PCI_STATUS, 2), unsigned{PCI_STATUS_CAP_LIST});
  set(PCI_VENDOR_ID, 4, 0xffffffff);
  EXPECT_EQ(get(PCI_VENDOR_ID, 4), 0x56781234u);
  EXPECT_EQ(function_->config_size(), 4096u);
}

TEST_F(FunctionTest, HasItsCapabilities) {
  const auto all = capabilities();
  ASSERT_EQ(all.size(), 4u);
  EXPECT_EQ(all.at(PCI_CAP_ID_PM), function_->config_map().power_management);
  EXPECT_EQ(get(all.at(PCI_CAP_ID_MSI) + PCI_MSI_FLAGS, 2),
            PCI_MSI_FLAGS_64BIT | PCI_MSI_FLAGS_MASKBIT | 2u << 1);
  EXPECT_EQ(get(all.at(PCI_CAP_ID_MSIX) + PCI_MSIX_FLAGS, 2), 64u);
  EXPECT_EQ(get(all.at(PCI_CAP_ID_MSIX) + PCI_MSIX_TABLE, 4), 2u);
  EXPECT_EQ(get(all.at(PCI_CAP_ID_MSIX) + PCI_MSIX_PBA, 4), 0x1002u);
  EXPECT_NE(get(all.at(PCI_CAP_ID_EXP) + PCI_EXP_DEVCAP, 4) & PCI_EXP_DEVCAP_FLR, 0u);

  auto description = everything();
  description.capabilities = {{.id = PCI_CAP_ID_VNDR, .body = {5, 1, 2}, .writable = {0, 0, 0xf0}}};
  plug(std::move(description));
  const auto vendor = capabilities().at(PCI_CAP_ID_VNDR);
  set(vendor + 2, 2, 0xffff);
  set(vendor + 4, 1, 0xff);
  EXPECT_EQ(get(vendor + 2, 2), 0x0105u);
  EXPECT_EQ(get(vendor + 4, 1), 0xf2u);

  plug({.vendor_id = 1, .power_management = false, .pcie = false});
  EXPECT_EQ(get(PCI_CAPABILITY_LIST, 1), 0u);
  EXPECT_EQ(get(PCI_STATUS, 2), 0u);
  EXPECT_EQ(function_->config_size(), 256u);
}

TEST_F(FunctionTest, BarsTellTheirSize) {
  for (unsigned at = PCI_BASE_ADDRESS_0; at <= PCI_BASE_ADDRESS_5; at += 4) set(at, 4, ~0u);
  set(PCI_ROM_ADDRESS, 4, ~0u);
  EXPECT_EQ(get(PCI_BASE_ADDRESS_0, 4), 0xffffc00cu);
  EXPECT_EQ(get(PCI_BASE_ADDRESS_1, 4), 0xffffffffu);
  EXPECT_EQ(get(PCI_BASE_ADDRESS_2, 4), 0xffffe000u);
  EXPECT_EQ(get(PCI_BASE_ADDRESS_3, 4), 0u);
  EXPECT_EQ(get(PCI_BASE_ADDRESS_4, 4), 0xffffffe1u);
  EXPECT_EQ(get(PCI_ROM_ADDRESS, 4), 0xffffe001u);
  EXPECT_EQ(function_->rom_size(), 0x2000u);
  EXPECT_EQ(function_->bar_size(1), 0u);
  EXPECT_EQ(function_->bar_size(4), 0x20u);
}

TEST_F(FunctionTest, DecodesOnlyWhenEnabled) {
  std::array<std::byte, 4> data{};
  EXPECT_EQ(function_->bar_read(0, 0, data).error(), Errno{EIO});
  EXPECT_EQ(function_->bar_write(2, 0, data).error(), Errno{EIO});
  EXPECT_EQ(read(4, 0, 4), 0xffffffffu);
  write(4, 0, 4, 1);
  EXPECT_TRUE(model_->accesses.empty());
  command(PCI_COMMAND_MEMORY);
  EXPECT_EQ(read(0, 8, 4), 0x55667788u);
  EXPECT_EQ(read(4, 0, 1), 0xffu);
  command(PCI_COMMAND_IO);
  EXPECT_EQ(function_->bar_read(0, 0, data).error(), Errno{EIO});
  write(4, 2, 2, 0xabcd);
  EXPECT_THAT(model_->accesses, ElementsAre(Access{'r', 0, 8, 4, 0}, Access{'w', 4, 2, 2, 0xabcd}));
  EXPECT_EQ(function_->bar_read(0, 0x3ffd, data).error(), Errno{EINVAL});
  EXPECT_EQ(function_->bar_read(0, UINT64_MAX, data).error(), Errno{EINVAL});
  EXPECT_EQ(function_->bar_read(3, 0, data).error(), Errno{EINVAL});
  EXPECT_EQ(function_->bar_read(kVgaRanges, 0xa0000, data).error(), Errno{EINVAL}) << "no VGA";
}

TEST_F(FunctionTest, SplitsAccessesNaturally) {
  command(PCI_COMMAND_MEMORY);
  std::array<std::byte, 15> data{};
  ASSERT_TRUE(function_->bar_write(0, 1, data));
  EXPECT_THAT(model_->accesses, ElementsAre(Access{'w', 0, 1, 1, 0}, Access{'w', 0, 2, 2, 0},
                                            Access{'w', 0, 4, 4, 0}, Access{'w', 0, 8, 8, 0}));
}

TEST_F(FunctionTest, MappablePartsAreMemory) {
  command(PCI_COMMAND_MEMORY);
  write(0, 0x1000, 8, 0x0102030405060708);
  EXPECT_EQ(read(0, 0x1004, 2), 0x0304u);
  EXPECT_TRUE(model_->accesses.empty());
  EXPECT_EQ(model_->port->bar_memory(0)[0x1000], std::byte{8});
  EXPECT_TRUE(model_->port->bar_memory(2).empty());
  ASSERT_NE(function_->mmap_backing(), nullptr);
  void* map = mmap(nullptr, 0x1000, PROT_READ | PROT_WRITE, MAP_SHARED,
                   function_->mmap_backing()->get(), 0x1000);
  ASSERT_NE(map, MAP_FAILED);
  static_cast<char*>(map)[0] = 9;
  EXPECT_EQ(read(0, 0x1000, 1), 9u);
  munmap(map, 0x1000);
}

// One page of a client's mapping: its first byte, or nothing where an access raises SIGBUS.
class ClientMapping {
 public:
  explicit ClientMapping(const Function& function)
      : page_(static_cast<volatile char*>(mmap(nullptr, 0x1000, PROT_READ | PROT_WRITE, MAP_SHARED,
                                               function.mmap_backing()->get(), 0x1000))) {}
  ~ClientMapping() { munmap(const_cast<char*>(page_), 0x1000); }
  void store(char value) { *page_ = value; }
  // In a process of its own, which may die of it.
  [[nodiscard]] std::optional<char> load() const {
    const pid_t child = fork();
    if (child == 0) {
      signal(SIGBUS, SIG_DFL);
      _exit(*page_);
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS) return std::nullopt;
    return static_cast<char>(WEXITSTATUS(status));
  }

 private:
  volatile char* page_;
};

TEST_F(FunctionTest, MappingsFollowDecoding) {
  const ClientMapping client(*function_);
  std::byte& mine = model_->port->bar_memory(0)[0x1000];
  EXPECT_EQ(client.load(), std::nullopt) << "not decoded after power-on";
  mine = std::byte{1};
  command(PCI_COMMAND_MEMORY);
  EXPECT_EQ(client.load(), 1) << "what the model had written meanwhile";
  ClientMapping(*function_).store(2);
  EXPECT_EQ(mine, std::byte{2});
  command(0);
  EXPECT_EQ(client.load(), std::nullopt);
  EXPECT_EQ(mine, std::byte{2}) << "the model's memory stays";
  mine = std::byte{3};
  command(PCI_COMMAND_MEMORY);
  EXPECT_EQ(client.load(), 3);

  function_->deny_mappings(true);
  EXPECT_EQ(client.load(), std::nullopt);
  EXPECT_EQ(read(0, 0x1000, 1), 3u) << "accesses of other kinds go on";
  function_->deny_mappings(false);
  EXPECT_EQ(client.load(), 3);

  function_->set_power_state(3);
  EXPECT_EQ(client.load(), std::nullopt);
  function_->set_power_state(0);
  command(PCI_COMMAND_MEMORY);
  EXPECT_NE(client.load(), std::nullopt);
  ASSERT_TRUE(function_->reset_function());
  EXPECT_NE(client.load(), std::nullopt) << "decoding is as before";
  EXPECT_EQ(model_->stills, 7u);
}

TEST_F(FunctionTest, StoresAreNotLostWhenMappingsAreTakenAway) {
  for (int round = 0; round < 200; ++round) {
    command(PCI_COMMAND_MEMORY);
    // A client of its own, as its end is SIGBUS. What it has stored last, it says before the next.
    auto* const said = static_cast<std::atomic<std::uint32_t>*>(
        mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    auto* const page = static_cast<std::atomic<std::uint32_t>*>(
        mmap(nullptr, 0x1000, PROT_READ | PROT_WRITE, MAP_SHARED, function_->mmap_backing()->get(),
             0x1000));
    const pid_t child = fork();
    if (child == 0) {
      signal(SIGBUS, SIG_DFL);
      for (std::uint32_t i = 1;; ++i) {
        page[17].store(i);
        said->store(i);
      }
    }
    while (said->load() < 1000) sched_yield();
    command(0);
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
    const auto mine = model_->port->bar_memory(0).subspan(0x1000 + 17 * 4);
    std::uint32_t kept = 0;
    std::memcpy(&kept, mine.data(), 4);
    EXPECT_GE(kept, said->load());
    EXPECT_LE(kept, said->load() + 1);
    munmap(said, 4096);
    munmap(page, 0x1000);
  }
}

TEST_F(FunctionTest, NothingOfAClientStaysInTheFile) {
  command(PCI_COMMAND_MEMORY);
  // A descriptor of the client's own, as it has with a mapping.
  const auto mine = function_->mmap_backing()->duplicate();
  ASSERT_TRUE(mine);
  const int file = mine->get();
  // In a hole between regions, and in a part of the BAR that is not to be mapped.
  ASSERT_EQ(pwrite(file, "secret", 6, 0x3000), 6);
  ASSERT_EQ(pwrite(file, "secret", 6, std::int64_t{1} << 40), 6);
  function_->detach();
  EXPECT_TRUE(function_->memory_enabled()) << "as the host has it";
  std::array<char, 6> there{};
  const int next = function_->mmap_backing()->get();
  EXPECT_EQ(pread(next, there.data(), 6, 0x3000), 6);
  EXPECT_EQ(there, (std::array<char, 6>{}));
  EXPECT_EQ(lseek(next, std::int64_t{1} << 40, SEEK_DATA), -1);
  // The former file is nobody's now.
  struct stat status {};
  ASSERT_EQ(fstat(file, &status), 0);
  EXPECT_EQ(status.st_size, 0);
  const ClientMapping client(*function_);
  write(0, 0x1000, 8, 7);
  EXPECT_EQ(client.load(), 7u);
  ASSERT_EQ(ftruncate(file, 0x10000), 0);
  ASSERT_EQ(pwrite(file, "secret", 6, 0x1000), 6);
  EXPECT_EQ(read(0, 0x1000, 8), 7u);
}

TEST_F(FunctionTest, AClientThatShortensTheFileHarmsItselfOnly) {
  command(PCI_COMMAND_MEMORY);
  ASSERT_EQ(ftruncate(function_->mmap_backing()->get(), 0), 0);
  write(0, 0x1000, 8, 1);
  EXPECT_EQ(read(0, 0x1000, 8), 1u);
  command(0);
  command(PCI_COMMAND_MEMORY);
  const ClientMapping client(*function_);
  EXPECT_NE(client.load(), std::nullopt);
}

TEST_F(FunctionTest, BusMasterIsToldAndGates) {
  command(PCI_COMMAND_MASTER);
  command(PCI_COMMAND_MASTER | PCI_COMMAND_MEMORY);
  command(0);
  EXPECT_THAT(model_->masters, ElementsAre(true, false));
  EXPECT_EQ(model_->port->dma().error(), Errno{ENXIO}) << "nobody has it open";
}

TEST_F(FunctionTest, PinFollowsLevelAndDisable) {
  EXPECT_EQ(model_->port->interrupt_mode(), InterruptMode::intx);
  model_->port->set_intx(true);
  model_->port->set_intx(true);
  EXPECT_NE(get(PCI_STATUS, 2) & PCI_STATUS_INTERRUPT, 0u);
  EXPECT_TRUE(function_->intx_asserted());
  command(PCI_COMMAND_INTX_DISABLE);
  EXPECT_FALSE(function_->intx_asserted());
  EXPECT_NE(get(PCI_STATUS, 2) & PCI_STATUS_INTERRUPT, 0u);
  command(0);
  model_->port->set_intx(false);
  EXPECT_THAT(sink_.levels, ElementsAre(true, false, true, false));
  EXPECT_EQ(get(PCI_STATUS, 2) & PCI_STATUS_INTERRUPT, 0u);
}

TEST_F(FunctionTest, MsiMasksAndKeepsWhatIsPending) {
  const unsigned at = function_->config_map().msi;
  command(PCI_COMMAND_MASTER);
  ASSERT_TRUE(function_->enable_messages(InterruptMode::msi, 3));
  EXPECT_EQ(get(at + PCI_MSI_FLAGS, 2) >> 4 & 7, 2u) << "rounded up to 4";
  EXPECT_EQ(model_->port->interrupt_mode(), InterruptMode::msi);
  model_->port->raise(3);
  model_->port->raise(4);
  set(at + PCI_MSI_MASK_64, 4, 0xffffffff);
  EXPECT_EQ(get(at + PCI_MSI_MASK_64, 4), 0xfu);
  model_->port->raise(1);
  EXPECT_EQ(get(at + PCI_MSI_PENDING_64, 4), 2u);
  EXPECT_THAT(sink_.messages, ElementsAre(3));
  set(at + PCI_MSI_MASK_64, 4, 0);
  EXPECT_THAT(sink_.messages, ElementsAre(3, 1));
  EXPECT_EQ(get(at + PCI_MSI_PENDING_64, 4), 0u);
  function_->disable_messages();
  model_->port->raise(0);
  EXPECT_EQ(sink_.messages.size(), 2u);
  EXPECT_EQ(function_->enable_messages(InterruptMode::msi, 5).error(), Errno{EINVAL});
}

TEST_F(FunctionTest, MsixHasTableAndPendingBits) {
  const unsigned at = function_->config_map().msix;
  command(PCI_COMMAND_MASTER | PCI_COMMAND_MEMORY);
  EXPECT_EQ(read(2, 64 * 16 + PCI_MSIX_ENTRY_VECTOR_CTRL, 4), 1u) << "masked after power-on";
  set(at + PCI_MSIX_FLAGS, 2, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
  EXPECT_EQ(model_->port->interrupt_mode(), InterruptMode::msix);
  model_->port->raise(64);
  model_->port->raise(2);
  model_->port->raise(65);
  EXPECT_EQ(read(2, 0x1000, 8), 4u);
  EXPECT_EQ(read(2, 0x1008, 8), 1u);
  write(2, 0x1000, 8, 0);
  EXPECT_EQ(read(2, 0x1000, 8), 4u) << "read-only";
  write(2, 64 * 16, 8, 0xfee00000);
  write(2, 64 * 16 + 8, 8, 0xfffffffe'00004021);
  EXPECT_EQ(read(2, 64 * 16 + 8, 8), 0x4021u) << "but for the mask bit all is reserved";
  EXPECT_TRUE(sink_.messages.empty());
  set(at + PCI_MSIX_FLAGS, 2, PCI_MSIX_FLAGS_ENABLE);
  EXPECT_THAT(sink_.messages, ElementsAre(64));
  function_->set_vector_masked(2, false);
  EXPECT_THAT(sink_.messages, ElementsAre(64, 2));
  model_->port->raise(2);
  EXPECT_EQ(sink_.messages.size(), 3u);
  EXPECT_TRUE(model_->accesses.empty());
}

TEST_F(FunctionTest, NoMessagesWithoutBusMaster) {
  ASSERT_TRUE(function_->enable_messages(InterruptMode::msix, 1));
  model_->port->raise(0);
  EXPECT_TRUE(sink_.messages.empty());
}

TEST_F(FunctionTest, FlrResetsEverything) {
  const unsigned at = function_->config_map().pcie;
  const unsigned before = model_->resets;
  command(PCI_COMMAND_MASTER | PCI_COMMAND_MEMORY);
  set(PCI_BASE_ADDRESS_2, 4, 0x80000000);
  set(PCI_INTERRUPT_LINE, 1, 9);
  ASSERT_TRUE(function_->enable_messages(InterruptMode::msix, 1));
  model_->port->set_intx(true);
  set(at + PCI_EXP_DEVCTL, 2, get(at + PCI_EXP_DEVCTL, 2) | PCI_EXP_DEVCTL_BCR_FLR);
  EXPECT_EQ(model_->resets, before + 1);
  EXPECT_EQ(get(PCI_COMMAND, 2), 0u);
  EXPECT_EQ(get(PCI_BASE_ADDRESS_2, 4), 0u);
  EXPECT_EQ(get(PCI_INTERRUPT_LINE, 1), 0u);
  EXPECT_EQ(get(at + PCI_EXP_DEVCTL, 2) & PCI_EXP_DEVCTL_BCR_FLR, 0u);
  EXPECT_EQ(model_->port->interrupt_mode(), InterruptMode::intx);
  EXPECT_FALSE(function_->intx_asserted());
  EXPECT_FALSE(function_->memory_enabled());
}

TEST_F(FunctionTest, ResetFunctionKeepsTheConfiguration) {
  command(PCI_COMMAND_MASTER | PCI_COMMAND_MEMORY);
  set(PCI_BASE_ADDRESS_2, 4, 0x80000000);
  ASSERT_TRUE(function_->enable_messages(InterruptMode::msix, 2));
  const unsigned before = model_->resets;
  ASSERT_TRUE(function_->reset_function());
  EXPECT_EQ(model_->resets, before + 1);
  EXPECT_EQ(get(PCI_BASE_ADDRESS_2, 4), 0x80000000u);
  EXPECT_TRUE(function_->memory_enabled());
  model_->port->raise(1);
  EXPECT_THAT(sink_.messages, ElementsAre(1));

  auto description = everything();
  description.flr = false;
  description.power_management = false;
  plug(std::move(description));
  EXPECT_EQ(function_->reset_function().error(), Errno{ENOTTY});
  const unsigned pcie = function_->config_map().pcie;
  const unsigned resets = model_->resets;
  set(pcie + PCI_EXP_DEVCTL, 2, 0xffff);
  EXPECT_EQ(model_->resets, resets) << "no FLR";
}

TEST_F(FunctionTest, D3hotClosesItAndD0ResetsIt) {
  const unsigned at = function_->config_map().power_management + PCI_PM_CTRL;
  command(PCI_COMMAND_MASTER | PCI_COMMAND_MEMORY);
  model_->port->set_intx(true);
  const unsigned before = model_->resets;
  set(at, 2, 1);
  EXPECT_EQ(function_->power_state(), 0u) << "there is no D1";
  set(at, 2, 3);
  EXPECT_EQ(function_->power_state(), 3u);
  std::array<std::byte, 4> data{};
  EXPECT_EQ(function_->bar_read(0, 0, data).error(), Errno{EIO});
  EXPECT_FALSE(function_->intx_asserted());
  EXPECT_THAT(model_->masters, ElementsAre(true, false));
  EXPECT_EQ(get(PCI_VENDOR_ID, 2), 0x1234u);
  EXPECT_EQ(model_->resets, before);
  set(at, 2, 0);
  EXPECT_EQ(model_->resets, before + 1);
  EXPECT_EQ(get(PCI_COMMAND, 2), 0u);
}

TEST_F(FunctionTest, ConfigAccessesAreCheckedAndSplit) {
  std::array<std::byte, 8> data{};
  EXPECT_EQ(function_->config_read(4093, data).error(), Errno{EFAULT});
  EXPECT_EQ(function_->config_write(UINT64_MAX, data).error(), Errno{EFAULT});
  EXPECT_TRUE(function_->config_read(4088, data));
  EXPECT_EQ(function_->config_write(4089, data).error(), Errno{EFAULT});
  const std::array<std::byte, 3> bytes{std::byte{0x07}, std::byte{0}, std::byte{0xff}};
  EXPECT_TRUE(function_->config_write(PCI_COMMAND, bytes));
  EXPECT_EQ(get(PCI_COMMAND, 2), 7u);
}

TEST_F(FunctionTest, ErrorBitsAreCleared) {
  // Nothing in a model sets them; the bits read 0 before and after.
  set(function_->config_map().pcie + PCI_EXP_DEVSTA, 2, 0xffff);
  EXPECT_EQ(get(function_->config_map().pcie + PCI_EXP_DEVSTA, 2), 0u);
}

TEST(FunctionDescription, MistakesAreRefused) {
  const auto refused = [](auto&& change) {
    auto description = everything();
    change(description);
    const auto function = Function::create(std::make_unique<TestModel>(std::move(description)));
    return !function && function.error() == Errno{EINVAL};
  };
  EXPECT_TRUE(refused([](auto& d) { d.bars[2].size = 0x3000; }));
  EXPECT_TRUE(refused([](auto& d) { d.bars[4].size = 512; }));
  EXPECT_TRUE(refused([](auto& d) { d.bars[1] = d.bars[2]; }));
  EXPECT_TRUE(refused([](auto& d) { d.bars[5] = {.kind = Bar::Kind::memory64, .size = 4096}; }));
  EXPECT_TRUE(refused([](auto& d) { d.bars[0].mappable[0].offset = 0x800; }));
  EXPECT_TRUE(refused([](auto& d) { d.bars[0].mappable[0].size = 0x4000; }));
  EXPECT_TRUE(refused([](auto& d) { d.bars[2].mappable = {{.offset = 0, .size = 4096}}; }));
  EXPECT_TRUE(refused([](auto& d) { d.bars[4].mappable = {{.offset = 0, .size = 4096}}; }));
  EXPECT_TRUE(refused([](auto& d) { d.msix->pba_offset = 0x100; }));
  EXPECT_TRUE(refused([](auto& d) { d.msix->table_bar = 4; }));
  EXPECT_TRUE(refused([](auto& d) { d.msix->vectors = 2049; }));
  EXPECT_TRUE(refused([](auto& d) { d.msix->table_offset = 0x1ff8; }));
  EXPECT_TRUE(refused([](auto& d) { d.msi_vectors = 3; }));
  EXPECT_TRUE(refused([](auto& d) {
    d.capabilities.push_back({.id = 9, .body = std::vector<std::uint8_t>(180), .writable = {}});
  }));
  EXPECT_TRUE(refused([](auto& d) {
    d.capabilities.push_back({.id = 9, .body = {1, 2}, .writable = {1}});
  }));
  EXPECT_FALSE(refused([](auto&) {}));
}

}  // namespace
}  // namespace uvfio::pci
