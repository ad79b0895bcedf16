#include "vfio_pci/permissions.h"

#include <linux/pci_regs.h>

#include <algorithm>
#include <array>

namespace uvfio::vfio_pci {
namespace {

constexpr std::uint32_t kAll = 0xffff'ffff;
constexpr std::uint32_t kNone = 0;

// PCI 3.0, 6.1.
constexpr auto kHeader = std::to_array<RegisterPermission>({
    {PCI_VENDOR_ID, 2, kAll, kNone},
    {PCI_DEVICE_ID, 2, kAll, kNone},
    {PCI_COMMAND, 2, PCI_COMMAND_INTX_DISABLE, kAll},
    {PCI_STATUS, 2, PCI_STATUS_CAP_LIST, kNone},
    {PCI_CACHE_LINE_SIZE, 1, kNone, kAll},
    {PCI_LATENCY_TIMER, 1, kNone, kAll},
    {PCI_BIST, 1, kNone, kAll},
    {PCI_BASE_ADDRESS_0, 4, kAll, kAll},
    {PCI_BASE_ADDRESS_1, 4, kAll, kAll},
    {PCI_BASE_ADDRESS_2, 4, kAll, kAll},
    {PCI_BASE_ADDRESS_3, 4, kAll, kAll},
    {PCI_BASE_ADDRESS_4, 4, kAll, kAll},
    {PCI_BASE_ADDRESS_5, 4, kAll, kAll},
    {PCI_ROM_ADDRESS, 4, kAll, kAll},
    {PCI_CAPABILITY_LIST, 1, kAll, kNone},
    {PCI_INTERRUPT_LINE, 1, kAll, kAll},
    {PCI_INTERRUPT_PIN, 1, kAll, kNone},
});

// PCI Power Management 1.2, 3.2. PME is the host's business.
constexpr std::uint32_t kPme = PCI_PM_CTRL_PME_ENABLE | PCI_PM_CTRL_PME_STATUS;
constexpr auto kPowerManagement = std::to_array<RegisterPermission>({
    {PCI_PM_PMC, 2, PCI_PM_CAP_PME_MASK, kNone},
    {PCI_PM_CTRL, 4, kPme, ~(kPme | PCI_PM_CTRL_STATE_MASK)},
});

// PCI 3.0, appendix I.
constexpr auto kVitalProductData = std::to_array<RegisterPermission>({
    {PCI_VPD_ADDR, 2, kAll, kAll},
    {PCI_VPD_DATA, 4, kAll, kAll},
});

constexpr auto kPciX = std::to_array<RegisterPermission>({
    {PCI_X_CMD, 2, kNone, kAll},
    {PCI_X_ECC_CSR, 4, kNone, kAll},
});

// PCI Express 4.0, 7.5.3. Phantom functions would confuse the IOMMU; the payload size is the
// fabric's.
constexpr auto kExpress = std::to_array<RegisterPermission>({
    {PCI_EXP_DEVCTL, 2, PCI_EXP_DEVCTL_BCR_FLR | PCI_EXP_DEVCTL_PAYLOAD | PCI_EXP_DEVCTL_READRQ,
     ~std::uint32_t{PCI_EXP_DEVCTL_PHANTOM}},
    {PCI_EXP_DEVCTL2, 2, kNone, ~std::uint32_t{PCI_EXP_DEVCTL2_ARI}},
});

constexpr auto kAdvancedFeatures = std::to_array<RegisterPermission>({
    {PCI_AF_CTRL, 1, PCI_AF_CTRL_FLR, PCI_AF_CTRL_FLR},
});

// PCI 3.0, 6.8.1: the layout depends on the control register. Its upper byte is not writable.
constexpr RegisterPermission kMsiControl{PCI_MSI_FLAGS, 1, kAll, kAll};
constexpr RegisterPermission kMsiAddress{PCI_MSI_ADDRESS_LO, 4, kAll, kAll};
constexpr auto kMsi32 = std::to_array<RegisterPermission>({
    kMsiControl,
    kMsiAddress,
    {PCI_MSI_DATA_32, 2, kAll, kAll},
    {PCI_MSI_MASK_32, 4, kNone, kAll},
    {PCI_MSI_PENDING_32, 4, kNone, kAll},
});
constexpr auto kMsi64 = std::to_array<RegisterPermission>({
    kMsiControl,
    kMsiAddress,
    {PCI_MSI_ADDRESS_HI, 4, kAll, kAll},
    {PCI_MSI_DATA_64, 2, kAll, kAll},
    {PCI_MSI_MASK_64, 4, kNone, kAll},
    {PCI_MSI_PENDING_64, 4, kNone, kAll},
});
constexpr std::size_t kMsiMaskRegisters = 2;  // at the end of both

// PCI Express 4.0, 7.8.4.
constexpr std::uint32_t kUncorrectable =
    PCI_ERR_UNC_UND | PCI_ERR_UNC_DLP | PCI_ERR_UNC_SURPDN | PCI_ERR_UNC_POISON_TLP |
    PCI_ERR_UNC_FCP | PCI_ERR_UNC_COMP_TIME | PCI_ERR_UNC_COMP_ABORT | PCI_ERR_UNC_UNX_COMP |
    PCI_ERR_UNC_RX_OVER | PCI_ERR_UNC_MALF_TLP | PCI_ERR_UNC_ECRC | PCI_ERR_UNC_UNSUP |
    PCI_ERR_UNC_ACSV | PCI_ERR_UNC_INTN | PCI_ERR_UNC_MCBTLP | PCI_ERR_UNC_ATOMEG |
    PCI_ERR_UNC_TLPPRE;
constexpr std::uint32_t kCorrectable =
    PCI_ERR_COR_RCVR | PCI_ERR_COR_BAD_TLP | PCI_ERR_COR_BAD_DLLP | PCI_ERR_COR_REP_ROLL |
    PCI_ERR_COR_REP_TIMER | PCI_ERR_COR_ADV_NFAT | PCI_ERR_COR_INTERNAL | PCI_ERR_COR_LOG_OVER;
constexpr auto kErrorReporting = std::to_array<RegisterPermission>({
    {PCI_ERR_UNCOR_STATUS, 4, kNone, kUncorrectable},
    {PCI_ERR_UNCOR_MASK, 4, kNone, kUncorrectable},
    {PCI_ERR_UNCOR_SEVER, 4, kNone, kUncorrectable},
    {PCI_ERR_COR_STATUS, 4, kNone, kCorrectable},
    {PCI_ERR_COR_MASK, 4, kNone, kCorrectable},
    {PCI_ERR_CAP, 4, kNone, PCI_ERR_CAP_ECRC_GENE | PCI_ERR_CAP_ECRC_CHKE},
});

// The register that the kernel opens is the data register, not the data select register.
constexpr auto kPowerBudgeting = std::to_array<RegisterPermission>({
    {PCI_PWR_DATA, 1, kNone, kAll},
});

// What is not listed is hidden.
constexpr auto kStandard = std::to_array<CapabilityPermission>({
    {.id = PCI_CAP_ID_PM,
     .length = PCI_PM_SIZEOF,
     .registers = kPowerManagement,
     .trap = Trap::power_management},
    {.id = PCI_CAP_ID_AGP, .length = PCI_AGP_SIZEOF},
    {.id = PCI_CAP_ID_VPD,
     .length = PCI_CAP_VPD_SIZEOF,
     .registers = kVitalProductData,
     .trap = Trap::vital_product_data},
    {.id = PCI_CAP_ID_MSI, .length = kVariableLength, .trap = Trap::msi},
    {.id = PCI_CAP_ID_PCIX, .length = kVariableLength, .registers = kPciX},
    {.id = PCI_CAP_ID_HT, .length = kVariableLength},
    {.id = PCI_CAP_ID_VNDR, .length = kVariableLength, .raw_writes = true},
    {.id = PCI_CAP_ID_EXP, .length = kVariableLength, .registers = kExpress, .trap = Trap::express},
    {.id = PCI_CAP_ID_MSIX, .length = PCI_CAP_MSIX_SIZEOF},
    {.id = PCI_CAP_ID_SATA, .length = kVariableLength},
    {.id = PCI_CAP_ID_AF,
     .length = PCI_CAP_AF_SIZEOF,
     .registers = kAdvancedFeatures,
     .trap = Trap::advanced_features},
});

constexpr auto kExtended = std::to_array<CapabilityPermission>({
    {.id = PCI_EXT_CAP_ID_ERR, .length = PCI_ERR_ROOT_COMMAND, .registers = kErrorReporting},
    {.id = PCI_EXT_CAP_ID_VC, .length = kVariableLength},
    {.id = PCI_EXT_CAP_ID_DSN, .length = PCI_EXT_CAP_DSN_SIZEOF},
    {.id = PCI_EXT_CAP_ID_PWR, .length = PCI_EXT_CAP_PWR_SIZEOF, .registers = kPowerBudgeting},
    {.id = PCI_EXT_CAP_ID_MFVC, .length = kVariableLength},
    {.id = PCI_EXT_CAP_ID_VC9, .length = kVariableLength},
    {.id = PCI_EXT_CAP_ID_VNDR, .length = kVariableLength, .raw_writes = true},
    {.id = PCI_EXT_CAP_ID_ACS, .length = kVariableLength},
    {.id = PCI_EXT_CAP_ID_ARI, .length = PCI_EXT_CAP_ARI_SIZEOF},
    {.id = PCI_EXT_CAP_ID_ATS, .length = PCI_EXT_CAP_ATS_SIZEOF},
    {.id = PCI_EXT_CAP_ID_SRIOV, .length = PCI_EXT_CAP_SRIOV_SIZEOF},
    {.id = PCI_EXT_CAP_ID_MCAST, .length = PCI_EXT_CAP_MCAST_ENDPOINT_SIZEOF},
    {.id = PCI_EXT_CAP_ID_PRI, .length = PCI_EXT_CAP_PRI_SIZEOF},
    {.id = PCI_EXT_CAP_ID_REBAR, .length = kVariableLength},
    {.id = PCI_EXT_CAP_ID_DPA, .length = kVariableLength},
    {.id = PCI_EXT_CAP_ID_TPH, .length = kVariableLength},
    {.id = PCI_EXT_CAP_ID_LTR, .length = PCI_EXT_CAP_LTR_SIZEOF},
    {.id = PCI_EXT_CAP_ID_DVSEC, .length = kVariableLength, .raw_writes = true},
});

std::uint16_t express_length(HardwareConfig& hardware, std::uint16_t position) {
  constexpr std::uint16_t kEndpointV2 = 0x34;  // with slot control 2, which older headers leave out
  const std::uint32_t flags = hardware.read(position + PCI_EXP_FLAGS, 2);
  const bool in_root_complex =
      (flags & PCI_EXP_FLAGS_TYPE) >> 4 == PCI_EXP_TYPE_RC_END;  // has no link registers
  if ((flags & PCI_EXP_FLAGS_VERS) == 1) {
    return in_root_complex ? PCI_CAP_EXP_RC_ENDPOINT_SIZEOF_V1 : PCI_CAP_EXP_ENDPOINT_SIZEOF_V1;
  }
  return in_root_complex ? PCI_CAP_EXP_RC_ENDPOINT_SIZEOF_V2 : kEndpointV2;
}

std::uint16_t standard_length(HardwareConfig& hardware, std::uint16_t id, std::uint16_t position) {
  switch (id) {
    case PCI_CAP_ID_MSI: {
      const std::uint32_t control = hardware.read(position + PCI_MSI_FLAGS, 2);
      return static_cast<std::uint16_t>(10 + ((control & PCI_MSI_FLAGS_64BIT) != 0 ? 4 : 0) +
                                        ((control & PCI_MSI_FLAGS_MASKBIT) != 0 ? 10 : 0));
    }
    case PCI_CAP_ID_PCIX:
      return PCI_X_CMD_VERSION(hardware.read(position + PCI_X_CMD, 2)) != 0
                 ? PCI_CAP_PCIX_SIZEOF_V2
                 : PCI_CAP_PCIX_SIZEOF_V0;
    case PCI_CAP_ID_HT:
      return (hardware.read(position + 3, 1) & HT_3BIT_CAP_MASK) != 0 ? HT_CAP_SIZEOF_SHORT
                                                                      : HT_CAP_SIZEOF_LONG;
    case PCI_CAP_ID_VNDR:
      return static_cast<std::uint16_t>(hardware.read(position + PCI_CAP_FLAGS, 1));
    case PCI_CAP_ID_EXP:
      return express_length(hardware, position);
    case PCI_CAP_ID_SATA:
      return (hardware.read(position + PCI_SATA_REGS, 1) & PCI_SATA_REGS_MASK) ==
                     PCI_SATA_REGS_INLINE
                 ? PCI_SATA_SIZEOF_LONG
                 : PCI_SATA_SIZEOF_SHORT;
    default:
      return 0;
  }
}

// PCI Express 4.0, 7.9.1: the arbitration table of the function comes last.
std::uint16_t virtual_channel_length(HardwareConfig& hardware, std::uint16_t position) {
  const std::uint32_t channels =
      1 + (hardware.read(position + PCI_VC_PORT_CAP1, 4) & PCI_VC_CAP1_EVCC);
  const std::uint32_t arbitration = hardware.read(position + PCI_VC_PORT_CAP2, 4);
  std::uint32_t length = PCI_CAP_VC_BASE_SIZEOF + channels * PCI_CAP_VC_PER_VC_SIZEOF;
  std::uint32_t phases = 0;
  if ((arbitration & PCI_VC_CAP2_32_PHASE) != 0) phases = 32;
  if ((arbitration & PCI_VC_CAP2_64_PHASE) != 0) phases = 64;
  if ((arbitration & PCI_VC_CAP2_128_PHASE) != 0) phases = 128;
  if (phases != 0) length = (length + 15) / 16 * 16 + phases * 4 / 8;
  return static_cast<std::uint16_t>(length);
}

std::uint16_t extended_length(HardwareConfig& hardware, std::uint16_t id, std::uint16_t position) {
  switch (id) {
    case PCI_EXT_CAP_ID_VC:
    case PCI_EXT_CAP_ID_VC9:
    case PCI_EXT_CAP_ID_MFVC:
      return virtual_channel_length(hardware, position);
    case PCI_EXT_CAP_ID_VNDR:
      return PCI_VNDR_HEADER_LEN(hardware.read(position + PCI_VNDR_HEADER, 4));
    case PCI_EXT_CAP_ID_DVSEC:
      return PCI_DVSEC_HEADER1_LEN(hardware.read(position + PCI_DVSEC_HEADER1, 4));
    case PCI_EXT_CAP_ID_ACS: {
      if ((hardware.read(position + PCI_ACS_CAP, 1) & PCI_ACS_EC) == 0) return 8;
      const std::uint32_t bits = hardware.read(position + PCI_ACS_EGRESS_BITS, 1);
      return static_cast<std::uint16_t>(8 + (bits != 0 ? (bits + 31) / 32 * 32 : 256) / 8);
    }
    case PCI_EXT_CAP_ID_REBAR: {
      const std::uint32_t control = hardware.read(position + PCI_REBAR_CTRL, 1);
      return static_cast<std::uint16_t>(
          4 + ((control & PCI_REBAR_CTRL_NBAR_MASK) >> PCI_REBAR_CTRL_NBAR_SHIFT) * 8);
    }
    case PCI_EXT_CAP_ID_DPA:
      return static_cast<std::uint16_t>(
          PCI_DPA_BASE_SIZEOF +
          (hardware.read(position + PCI_DPA_CAP, 1) & PCI_DPA_CAP_SUBSTATE_MASK) + 1);
    case PCI_EXT_CAP_ID_TPH: {
      const std::uint32_t capability = hardware.read(position + PCI_TPH_CAP, 4);
      if ((capability & PCI_TPH_CAP_LOC_MASK) != PCI_TPH_LOC_CAP) return PCI_TPH_BASE_SIZEOF;
      const std::uint32_t last = (capability & PCI_TPH_CAP_ST_MASK) >> PCI_TPH_CAP_ST_SHIFT;
      return static_cast<std::uint16_t>(PCI_TPH_BASE_SIZEOF + last * 2 + 2);
    }
    default:
      return 0;
  }
}

}  // namespace

std::span<const RegisterPermission> header_permissions() { return kHeader; }

std::span<const RegisterPermission> msi_permissions(std::uint16_t control) {
  const std::span<const RegisterPermission> all =
      (control & PCI_MSI_FLAGS_64BIT) != 0 ? std::span<const RegisterPermission>(kMsi64) : kMsi32;
  return (control & PCI_MSI_FLAGS_MASKBIT) != 0 ? all : all.first(all.size() - kMsiMaskRegisters);
}

const CapabilityPermission* find_permission(bool extended, std::uint16_t id) {
  const std::span<const CapabilityPermission> all =
      extended ? std::span<const CapabilityPermission>(kExtended) : kStandard;
  const auto found = std::ranges::find(all, id, &CapabilityPermission::id);
  return found == all.end() ? nullptr : &*found;
}

std::uint16_t capability_length(HardwareConfig& hardware, bool extended,
                                const CapabilityPermission& capability, std::uint16_t position) {
  if (capability.length != kVariableLength) return capability.length;
  return extended ? extended_length(hardware, capability.id, position)
                  : standard_length(hardware, capability.id, position);
}

}  // namespace uvfio::vfio_pci
