// The IOMMU without a door: translation, MAP and UNMAP, pins, and what they cost in memory.

#include <benchmark/benchmark.h>
#include <linux/vfio.h>
#include <malloc.h>
#include <sys/mman.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "iommu/type1/type1.h"
#include "tests/support/fake_device.h"
#include "uvfio/embedded.h"
#include "uvfio/host.h"

namespace uvfio {
namespace {

constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kIova = 0x100000000;  // away from 0, so that nothing is special

// A device that is open in a container of this process, and 256 MiB of memory for it.
class Setup {
 public:
  static constexpr std::size_t kMemory = std::size_t{256} << 20;

  explicit Setup(std::uint32_t entries = 4'000'000) {
    auto parameters = std::make_shared<iommu::type1::Parameters>();
    parameters->dma_entry_limit = entries;
    vfio_.register_iommu_driver(std::make_unique<iommu::type1::Type1Driver>(parameters));
    device_ =
        vfio_.register_emulated("bench", "bench", std::make_unique<testing::FakeDevice>(record_));
    container_ = vfio_.open_container();
    group_ = *device_->group().open();
    if (!group_->set_container(container_) || !container_->set_iommu(VFIO_TYPE1v2_IOMMU))
      std::abort();
    file_ = *vfio::GroupFile::get_device(group_, "bench");
    type1_ = std::dynamic_pointer_cast<iommu::type1::Type1>(container_->iommu());
    memory_ = static_cast<std::byte*>(
        mmap(nullptr, kMemory, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  }
  ~Setup() {
    static_cast<void>(type1_->unmap({.flags = VFIO_DMA_UNMAP_FLAG_ALL}));
    file_.reset();
    group_.reset();
    vfio_.unregister(device_);
    munmap(memory_, kMemory);
  }

  // `count` mappings of a page each, with a hole after each so that none could be merged.
  void map_pages(std::uint64_t count) {
    for (std::uint64_t i = 0; i < count; ++i)
      map(kIova + i * 2 * kPage, (i * kPage) % kMemory, kPage);
  }
  void map(std::uint64_t iova, std::uint64_t offset, std::uint64_t size) {
    if (!type1_->map({.iova = iova, .vaddr = address(offset), .size = size, .flags = 3}, mapper_))
      std::abort();
  }
  [[nodiscard]] std::uint64_t address(std::uint64_t offset) const {
    return reinterpret_cast<std::uint64_t>(memory_ + offset);
  }

  testing::FakeDevice::Record record_;
  vfio::Vfio vfio_;
  std::shared_ptr<vfio::Device> device_;
  std::shared_ptr<vfio::Container> container_;
  std::shared_ptr<vfio::GroupFile> group_;
  std::shared_ptr<vfio::DeviceFile> file_;
  std::shared_ptr<iommu::type1::Type1> type1_;
  iommu::type1::Mapper mapper_{.space = memory::this_process(), .lock_cap = true};
  std::byte* memory_ = nullptr;
};

enum Order { same, sequential, random_order };

// IOVA to pointer through a device's Dma, as a device does for each descriptor. Arguments:
// mappings, order.
void translate(benchmark::State& state) {
  Setup setup;
  const auto mappings = static_cast<std::uint64_t>(state.range(0));
  setup.map_pages(mappings);
  constexpr std::size_t kAddresses = 1 << 16;
  std::vector<std::uint64_t> iovas(kAddresses);
  std::mt19937_64 random(1);
  for (std::size_t i = 0; i < kAddresses; ++i) {
    const std::uint64_t index = state.range(1) == same         ? 0
                                : state.range(1) == sequential ? i % mappings
                                                               : random() % mappings;
    iovas[i] = kIova + index * 2 * kPage + random() % (kPage / 8) * 8;
  }
  vfio::Dma dma = *setup.device_->dma();
  for (const std::uint64_t iova : iovas)
    benchmark::DoNotOptimize(dma.translate(iova, 8, vfio::Prot::read));
  std::size_t i = 0;
  for (auto _ : state) {
    auto window = dma.translate(iovas[i++ % kAddresses], 8, vfio::Prot::read);
    benchmark::DoNotOptimize(window->data());
  }
  state.SetLabel(state.range(1) == same         ? "same"
                 : state.range(1) == sequential ? "sequential"
                                                : "random");
}
BENCHMARK(translate)->ArgsProduct({{1, 16, 256, 4096, 65536}, {same, sequential, random_order}});

// One MAP and one UNMAP of a page beside so many other mappings.
void map_unmap_pair(benchmark::State& state) {
  Setup setup;
  setup.map_pages(static_cast<std::uint64_t>(state.range(0)));
  const std::uint64_t iova = kIova - kPage;
  for (auto _ : state) {
    setup.map(iova, 0, kPage);
    benchmark::DoNotOptimize(setup.type1_->unmap({.iova = iova, .size = kPage}));
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(map_unmap_pair)->Arg(0)->Arg(1000)->Arg(65536)->Arg(1'000'000);

// Pins and unpins runs of so many pages over all of the memory. Arguments: pages a call, mappings.
void pin_unpin(benchmark::State& state) {
  Setup setup;
  const auto run = static_cast<std::uint64_t>(state.range(0));
  const auto mappings = static_cast<std::uint64_t>(state.range(1));
  for (std::uint64_t i = 0; i < mappings; ++i) {
    setup.map(kIova + i * (Setup::kMemory / mappings), i * (Setup::kMemory / mappings),
              Setup::kMemory / mappings);
  }
  std::uint64_t at = 0;
  for (auto _ : state) {
    auto pins = setup.device_->pin_pages(kIova + at, run, vfio::Prot::read_write);
    if (!pins) std::abort();
    benchmark::DoNotOptimize(pins->segments().data());
    at = (at + run * kPage) % Setup::kMemory;
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(pin_unpin)->ArgsProduct({{1, 16, 512}, {1, 64}});

// Heap bytes for each mapping and for each pinned page, as malloc counts them.
void memory_cost(benchmark::State& state) {
  const auto mappings = static_cast<std::uint64_t>(state.range(0));
  double mapping_bytes = 0;
  double pin_bytes = 0;
  for (auto _ : state) {
    Setup setup;
    const auto before = mallinfo2();
    setup.map_pages(mappings);
    const auto mapped = mallinfo2();
    mapping_bytes =
        static_cast<double>(mapped.uordblks + mapped.hblkhd - before.uordblks - before.hblkhd) /
        static_cast<double>(mappings);
    setup.map(kIova / 2, 0, Setup::kMemory);
    const auto unpinned = mallinfo2();
    std::vector<vfio::PinnedPages> pins;
    constexpr std::uint64_t kPages = Setup::kMemory / kPage;
    for (std::uint64_t page = 0; page < kPages; page += 512) {
      pins.push_back(*setup.device_->pin_pages(kIova / 2 + page * kPage, 512, vfio::Prot::read));
    }
    const auto pinned = mallinfo2();
    pin_bytes =
        static_cast<double>(pinned.uordblks + pinned.hblkhd - unpinned.uordblks - unpinned.hblkhd) /
        kPages;
  }
  state.counters["bytes/mapping"] = mapping_bytes;
  state.counters["bytes/pinned_page"] = pin_bytes;
}
BENCHMARK(memory_cost)->Arg(65536)->Iterations(1)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace uvfio

BENCHMARK_MAIN();
