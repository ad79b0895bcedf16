#include "nodes/trace.h"

#include <fmt/format.h>
#include <linux/vfio.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <string_view>

#include "uvfio/vfio_compat.h"

namespace uvfio::nodes {
namespace {

constexpr std::array<std::string_view, 4> kKinds{"container", "group", "device",
                                                 "migration stream"};

struct Command {
  FileKind kind;
  std::uint32_t number;
  std::string_view name;
};

constexpr std::array kCommands{
    Command{FileKind::container, VFIO_GET_API_VERSION, "GET_API_VERSION"},
    Command{FileKind::container, VFIO_CHECK_EXTENSION, "CHECK_EXTENSION"},
    Command{FileKind::container, VFIO_SET_IOMMU, "SET_IOMMU"},
    Command{FileKind::container, VFIO_IOMMU_GET_INFO, "IOMMU_GET_INFO"},
    Command{FileKind::container, VFIO_IOMMU_MAP_DMA, "IOMMU_MAP_DMA"},
    Command{FileKind::container, VFIO_IOMMU_UNMAP_DMA, "IOMMU_UNMAP_DMA"},
    Command{FileKind::container, VFIO_IOMMU_DIRTY_PAGES, "IOMMU_DIRTY_PAGES"},
    Command{FileKind::group, VFIO_GROUP_GET_STATUS, "GROUP_GET_STATUS"},
    Command{FileKind::group, VFIO_GROUP_SET_CONTAINER, "GROUP_SET_CONTAINER"},
    Command{FileKind::group, VFIO_GROUP_UNSET_CONTAINER, "GROUP_UNSET_CONTAINER"},
    Command{FileKind::group, VFIO_GROUP_GET_DEVICE_FD, "GROUP_GET_DEVICE_FD"},
    Command{FileKind::device, VFIO_DEVICE_GET_INFO, "DEVICE_GET_INFO"},
    Command{FileKind::device, VFIO_DEVICE_GET_REGION_INFO, "DEVICE_GET_REGION_INFO"},
    Command{FileKind::device, VFIO_DEVICE_GET_IRQ_INFO, "DEVICE_GET_IRQ_INFO"},
    Command{FileKind::device, VFIO_DEVICE_SET_IRQS, "DEVICE_SET_IRQS"},
    Command{FileKind::device, VFIO_DEVICE_RESET, "DEVICE_RESET"},
    Command{FileKind::device, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, "DEVICE_GET_PCI_HOT_RESET_INFO"},
    Command{FileKind::device, VFIO_DEVICE_PCI_HOT_RESET, "DEVICE_PCI_HOT_RESET"},
    Command{FileKind::device, VFIO_DEVICE_IOEVENTFD, "DEVICE_IOEVENTFD"},
    Command{FileKind::device, VFIO_DEVICE_FEATURE, "DEVICE_FEATURE"},
    Command{FileKind::stream, VFIO_MIG_GET_PRECOPY_INFO, "MIG_GET_PRECOPY_INFO"},
};

}  // namespace

void log_request(FileKind kind, pid_t thread, std::uint32_t command, const Result<int>& result) {
  const auto* known = std::ranges::find_if(kCommands, [&](const Command& candidate) {
    return candidate.kind == kind && candidate.number == command;
  });
  const std::string name =
      known != kCommands.end() ? std::string(known->name) : fmt::format("ioctl {:#x}", command);
  const std::string answer =
      result ? std::to_string(*result) : std::string(strerrorname_np(value(result.error())));
  spdlog::debug("thread {}, {}: {} = {}", thread, kKinds[static_cast<std::size_t>(kind)], name,
                answer);
}

}  // namespace uvfio::nodes
