// Devices behind IOMMU units: MAP and UNMAP into domains, and DMA through the IOTLB.

#include <benchmark/benchmark.h>
#include <linux/vfio.h>
#include <malloc.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "iommu/type1/type1.h"
#include "tests/support/fake_device.h"
#include "uvfio/host.h"

namespace uvfio {
namespace {

constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kGiga = std::uint64_t{1} << 30;
constexpr std::uint64_t kIova = 4 * kGiga;  // beyond the reserved region of messages

// A direct device in a container of this process, with as many domains as asked for.
class Setup {
 public:
  static constexpr std::uint64_t kMemory = 4 * kGiga;

  explicit Setup(int domains = 1) {
    auto parameters = std::make_shared<iommu::type1::Parameters>();
    parameters->dma_entry_limit = 4'000'000;
    vfio_.register_iommu_driver(std::make_unique<iommu::type1::Type1Driver>(parameters));
    container_ = vfio_.open_container();
    for (int i = 0; i < domains; ++i) {
      const std::string name = "bench" + std::to_string(i);
      auto unit = std::make_shared<iommu::Unit>(
          iommu::UnitProperties{.name = name, .implementation = name});
      auto group = std::make_shared<iommu::IommuGroup>(vfio_.allocate_group_id(),
                                                       iommu::GroupType::real, std::move(unit));
      devices_.push_back(vfio_.register_real(name, name, std::move(group),
                                             std::make_unique<testing::FakeDevice>(record_)));
      groups_.push_back(*devices_.back()->group().open());
      if (!groups_.back()->set_container(container_)) std::abort();
      if (i == 0 && !container_->set_iommu(VFIO_TYPE1v2_IOMMU)) std::abort();
    }
    file_ = *vfio::GroupFile::get_device(groups_[0], "bench0");
    type1_ = std::dynamic_pointer_cast<iommu::type1::Type1>(container_->iommu());
    memory_ = static_cast<std::byte*>(mmap(nullptr, kMemory, PROT_READ | PROT_WRITE,
                                           MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  }
  ~Setup() {
    static_cast<void>(type1_->unmap({.flags = VFIO_DMA_UNMAP_FLAG_ALL}));
    file_.reset();
    groups_.clear();
    for (const auto& device : devices_) vfio_.unregister(device);
    munmap(memory_, kMemory);
  }

  void map(std::uint64_t iova, std::uint64_t offset, std::uint64_t size) {
    const auto vaddr = reinterpret_cast<std::uint64_t>(memory_ + offset);
    if (!type1_->map({.iova = iova, .vaddr = vaddr, .size = size, .flags = 3}, mapper_))
      std::abort();
  }
  void unmap(std::uint64_t iova, std::uint64_t size) {
    if (!type1_->unmap({.iova = iova, .size = size})) std::abort();
  }

  testing::FakeDevice::Record record_;
  vfio::Vfio vfio_;
  std::shared_ptr<vfio::Container> container_;
  std::vector<std::shared_ptr<vfio::Device>> devices_;
  std::vector<std::shared_ptr<vfio::GroupFile>> groups_;
  std::shared_ptr<vfio::DeviceFile> file_;
  std::shared_ptr<iommu::type1::Type1> type1_;
  iommu::type1::Mapper mapper_{.space = memory::this_process(), .lock_cap = true};
  std::byte* memory_ = nullptr;
};

// MAP of so much IOVA in pieces over and over the same 4 GiB of memory, then UNMAP piece by piece.
// Arguments: GiB, KiB a piece, domains.
void map_unmap(benchmark::State& state) {
  const auto total = static_cast<std::uint64_t>(state.range(0)) * kGiga;
  const auto piece = static_cast<std::uint64_t>(state.range(1)) * 1024;
  Setup setup(static_cast<int>(state.range(2)));
  for (auto _ : state) {
    for (std::uint64_t at = 0; at < total; at += piece)
      setup.map(kIova + at, at % Setup::kMemory, piece);
    for (std::uint64_t at = 0; at < total; at += piece) setup.unmap(kIova + at, piece);
  }
  state.counters["pieces/s"] = benchmark::Counter(
      static_cast<double>(total / piece) * static_cast<double>(state.iterations()),
      benchmark::Counter::kIsRate);
}
BENCHMARK(map_unmap)
    ->Unit(benchmark::kMillisecond)
    ->MeasureProcessCPUTime()
    ->UseRealTime()
    ->ArgsProduct({{1}, {4, 2048, 1 << 20}, {1, 2, 4}})
    ->ArgsProduct({{64}, {2048, 1 << 20}, {1, 4}})
    ->ArgsProduct({{1024}, {2048, 1 << 20}, {1, 2, 4}});

// Time and memory for so many mappings of a page each, in one domain.
void many_mappings(benchmark::State& state) {
  const auto count = static_cast<std::uint64_t>(state.range(0));
  double map_ns = 0;
  double unmap_ns = 0;
  double bytes = 0;
  const auto now = [] { return std::chrono::steady_clock::now(); };
  const auto nanoseconds = [&](auto duration) {
    return std::chrono::duration<double, std::nano>(duration).count() / static_cast<double>(count);
  };
  for (auto _ : state) {
    Setup setup;
    const auto before = mallinfo2();
    const auto start = now();
    for (std::uint64_t i = 0; i < count; ++i)
      setup.map(kIova + i * 2 * kPage, i * kPage % Setup::kMemory, kPage);
    const auto mapped = now();
    const auto after = mallinfo2();
    for (std::uint64_t i = 0; i < count; ++i) setup.unmap(kIova + i * 2 * kPage, kPage);
    unmap_ns = nanoseconds(now() - mapped);
    map_ns = nanoseconds(mapped - start);
    bytes = static_cast<double>(after.uordblks + after.hblkhd - before.uordblks - before.hblkhd) /
            static_cast<double>(count);
  }
  state.counters["map_ns"] = map_ns;
  state.counters["unmap_ns"] = unmap_ns;
  state.counters["bytes/mapping"] = bytes;
}
BENCHMARK(many_mappings)
    ->Arg(1000)
    ->Arg(65536)
    ->Arg(1'000'000)
    ->Iterations(1)
    ->Unit(benchmark::kMillisecond);

// 4 KiB from page to page: by memcpy, and as device DMA (`dma`) through an IOTLB that hits or, with
// more pages than it has entries, misses. Arguments: dma, pages.
void copy_page(benchmark::State& state) {
  Setup setup;
  const auto pages = static_cast<std::uint64_t>(state.range(1));
  std::memset(setup.memory_, 1, pages * kPage);
  for (std::uint64_t i = 0; i < pages; ++i) setup.map(kIova + i * kPage, i * kPage, kPage);
  // Always at the same place of a page: how fast memcpy is depends on it.
  alignas(kPage) static std::array<std::byte, 2 * kPage> pages_of_buffer;
  const auto buffer = std::span(pages_of_buffer).subspan(kPage / 2, kPage);
  vfio::Dma dma = *setup.devices_[0]->dma();
  std::uint64_t at = 0;
  for (auto _ : state) {
    if (state.range(0) != 0) {
      if (!dma.read(kIova + at * kPage, buffer)) std::abort();
    } else {
      std::memcpy(buffer.data(), setup.memory_ + at * kPage, kPage);
    }
    benchmark::DoNotOptimize(buffer.data());
    benchmark::ClobberMemory();
    at = (at + 1) % pages;
  }
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations() * kPage));
  state.SetLabel(state.range(0) != 0 ? "dma" : "memcpy");
}
BENCHMARK(copy_page)->ArgsProduct({{0, 1}, {1, 16, 64, 4096}});

// Latency of a translation alone, and while another thread maps and unmaps as fast as it can.
void translate_beside_mapper(benchmark::State& state) {
  Setup setup;
  constexpr std::uint64_t kMappings = 4096;
  for (std::uint64_t i = 0; i < kMappings; ++i) setup.map(kIova + i * kPage, i * kPage, kPage);
  std::atomic<bool> stop = false;
  std::atomic<std::uint64_t> pairs = 0;
  std::thread mapper;
  if (state.range(0) != 0) {
    mapper = std::thread([&] {
      constexpr std::uint64_t kElsewhere = 64 * kGiga;
      while (!stop.load(std::memory_order_relaxed)) {
        setup.map(kElsewhere, 0, kPage);
        setup.unmap(kElsewhere, kPage);
        pairs.fetch_add(1, std::memory_order_relaxed);
      }
    });
  }
  vfio::Dma dma = *setup.devices_[0]->dma();
  std::mt19937_64 random(1);
  std::vector<double> samples;
  samples.reserve(1 << 20);
  for (auto _ : state) {
    const std::uint64_t iova = kIova + random() % kMappings * kPage;
    const auto start = std::chrono::steady_clock::now();
    {
      auto window = dma.translate(iova, 8, vfio::Prot::read);
      benchmark::DoNotOptimize(window->data());
    }
    const auto end = std::chrono::steady_clock::now();
    if (samples.size() < samples.capacity())
      samples.push_back(std::chrono::duration<double, std::nano>(end - start).count());
  }
  stop = true;
  if (mapper.joinable()) mapper.join();
  std::ranges::sort(samples);
  state.counters["p50_ns"] = samples[samples.size() / 2];
  state.counters["p99_ns"] = samples[samples.size() * 99 / 100];
  state.counters["p99.9_ns"] = samples[samples.size() * 999 / 1000];
  state.counters["mapper_pairs"] = static_cast<double>(pairs);
  state.SetLabel(state.range(0) != 0 ? "beside a mapper" : "alone");
}
BENCHMARK(translate_beside_mapper)->Arg(0)->Arg(1)->UseRealTime();

}  // namespace
}  // namespace uvfio

BENCHMARK_MAIN();
