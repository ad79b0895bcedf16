// The embedded door: a device of one's own, and the program that drives it, in one process. No
// FUSE, no root, no kernel module.
//
// The device is a "checksum engine": the driver writes an IOVA and a length into its registers, and
// the device sums up that memory by DMA. The program below plays both the host (it registers the
// device) and the VFIO user (container, group, device, MAP_DMA).

#include <linux/vfio.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "uvfio/embedded.h"
#include "uvfio/host.h"

namespace {

using namespace uvfio;

// Registers in region 0: write `iova` and `length`, write anything to `go`, read `sum`.
struct Registers {
  std::uint64_t iova = 0;
  std::uint64_t length = 0;
  std::uint64_t go = 0;
  std::uint64_t sum = 0;
};

class ChecksumEngine final : public vfio::DeviceOps {
 public:
  Status open_device(vfio::Device& device) override {
    auto dma = device.dma();
    if (!dma) return std::unexpected(dma.error());
    dma_ = std::move(*dma);
    return {};
  }
  void close_device() override { dma_ = {}; }

  vfio::DeviceInfo info() override { return {.flags = 0, .num_regions = 1, .num_irqs = 0}; }
  Result<vfio::RegionInfo> region_info(std::uint32_t index) override {
    if (index != 0) return fail(EINVAL);
    return vfio::RegionInfo{.flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE,
                            .size = sizeof(Registers)};
  }
  Result<vfio::IrqInfo> irq_info(std::uint32_t) override { return fail(EINVAL); }
  Result<int> set_irqs(const vfio::IrqSet&) override { return fail(EINVAL); }

  Result<std::size_t> read(std::uint64_t position, std::span<std::byte> data) override {
    if (position > sizeof registers_ || data.size() > sizeof registers_ - position)
      return fail(EINVAL);
    std::memcpy(data.data(), reinterpret_cast<const std::byte*>(&registers_) + position,
                data.size());
    return data.size();
  }
  Result<std::size_t> write(std::uint64_t position, std::span<const std::byte> data) override {
    if (position > sizeof registers_ || data.size() > sizeof registers_ - position)
      return fail(EINVAL);
    std::memcpy(reinterpret_cast<std::byte*>(&registers_) + position, data.data(), data.size());
    if (position == offsetof(Registers, go)) {
      if (auto summed = sum_up(); !summed) return std::unexpected(summed.error());
    }
    return data.size();
  }

 private:
  // The client decides what it asks for, so the length is taken in pieces and every error is its
  // own.
  Status sum_up() {
    registers_.sum = 0;
    std::vector<std::byte> piece(4096);
    for (std::uint64_t done = 0; done < registers_.length; done += piece.size()) {
      piece.resize(std::min<std::uint64_t>(piece.size(), registers_.length - done));
      if (auto read = dma_.read(registers_.iova + done, piece); !read) return read;
      for (const std::byte byte : piece) registers_.sum += static_cast<std::uint8_t>(byte);
    }
    return {};
  }

  Registers registers_;
  vfio::Dma dma_;
};

class ChecksumDriver final : public mdev::Driver {
 public:
  std::string name() const override { return "checksum"; }
  std::string device_api() const override { return "vfio-platform"; }
  Result<std::unique_ptr<vfio::DeviceOps>> probe(mdev::Device&) override {
    return std::make_unique<ChecksumEngine>();
  }
};

// Ends the program with what went wrong, else returns the value.
template <typename T>
T must(Result<T> result, const char* what) {
  if (!result) {
    std::fprintf(stderr, "%s: %s\n", what, std::strerror(value(result.error())));
    std::exit(1);
  }
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

}  // namespace

int main() {
  // The host: a parent that can make checksum engines, and one of them.
  ChecksumDriver driver;
  Host host;
  must(host.mdev().register_driver(driver), "register_driver");
  const auto parent =
      must(host.mdev().register_parent({.name = "checksum",
                                        .driver_name = "checksum",
                                        .sysfs_path = "devices/virtual/checksum/checksum",
                                        .types = {{"1", "Checksum engine"}}},
                                       driver),
           "register_parent");
  const auto mdev = must(host.mdev().create(parent, parent->types()[0], Uuid::random()), "create");

  // The VFIO user: what other programs do with ioctls on /dev/vfio.
  const auto container = host.vfio().open_container();
  auto group =
      must(host.vfio().find_group(mdev->vfio_device()->group().id())->open(), "open group");
  must(group->set_container(container), "set_container");
  must(container->set_iommu(VFIO_TYPE1v2_IOMMU), "set_iommu");

  alignas(4096) static std::uint8_t memory[16 * 4096];
  std::iota(std::begin(memory), std::end(memory), std::uint8_t{0});
  constexpr std::uint64_t kIova = 0x100000;
  must(embedded::map_dma(*container, kIova, memory, sizeof memory), "map_dma");

  const auto device = must(vfio::GroupFile::get_device(group, mdev->name()), "get_device");
  const auto set = [&](std::size_t position, std::uint64_t number) {
    return device->ops().write(position, std::as_bytes(std::span(&number, 1)));
  };
  must(set(offsetof(Registers, iova), kIova), "write iova");
  must(set(offsetof(Registers, length), sizeof memory), "write length");
  must(set(offsetof(Registers, go), 1), "go");
  std::uint64_t sum = 0;
  must(device->ops().read(offsetof(Registers, sum), std::as_writable_bytes(std::span(&sum, 1))),
       "read sum");

  const std::uint64_t expected =
      std::accumulate(std::begin(memory), std::end(memory), std::uint64_t{0});
  std::printf("the device summed %zu bytes by DMA: %llu (%s)\n", sizeof memory,
              static_cast<unsigned long long>(sum), sum == expected ? "as expected" : "WRONG");

  // Beyond the mapping the device gets nothing.
  must(set(offsetof(Registers, iova), kIova + sizeof memory - 8), "write iova");
  must(set(offsetof(Registers, length), 16), "write length");
  const auto refused = set(offsetof(Registers, go), 1);
  std::printf("beyond the mapping: %s\n",
              refused ? "allowed?!" : std::strerror(value(refused.error())));
  must(embedded::unmap_dma(*container, kIova, sizeof memory), "unmap_dma");
  return sum == expected && !refused ? 0 : 1;
}
