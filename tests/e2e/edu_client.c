// A VFIO program that drives QEMU's educational device (edu): registers, an interrupt by MSI and by
// INTx, and DMA both ways. It knows nothing of uvfio; UVFIO_PCI only says which device. Prints one
// line for each thing that works. Status 1: something does not.
#include <linux/vfio.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "edu.h"

static void check(bool fine, const char* what) {
  printf("%s: %s\n", what, fine ? "yes" : "NO");
  if (!fine) exit(1);
}

int main(void) {
  const char* const name = getenv("UVFIO_PCI");
  if (name == NULL) return 2;
  struct edu edu = edu_open_group(name);
  check(edu_is_viable(&edu), "viable");
  edu_attach(&edu);
  edu_open_device(&edu, name);

  uint32_t id = 0;
  if (pread(edu.device, &id, 4, (off_t)edu.config) != 4) die("configuration space");
  check(id == 0x11e81234, "1234:11e8");
  check(edu_read(&edu, kEduIdentification, 4) == 0x010000ed, "identification");
  edu_write(&edu, kEduLiveness, 0x1234, 4);
  check(edu_read(&edu, kEduLiveness, 4) == 0xffffedcb, "liveness");

  edu.event = eventfd(0, EFD_CLOEXEC);
  edu_set_irq(&edu, VFIO_PCI_INTX_IRQ_INDEX, VFIO_IRQ_SET_ACTION_TRIGGER, edu.event);
  edu_write(&edu, kEduStatus, 0x80, 4);
  edu_write(&edu, kEduFactorial, 7, 4);
  check(edu_interrupt_came(&edu), "INTx after a factorial");
  check(edu_read(&edu, kEduFactorial, 4) == 5040, "7! = 5040");
  edu_write(&edu, kEduAcknowledge, 1, 4);
  edu_set_irq(&edu, VFIO_PCI_INTX_IRQ_INDEX, VFIO_IRQ_SET_ACTION_UNMASK, -1);
  edu_set_irq(&edu, VFIO_PCI_INTX_IRQ_INDEX, VFIO_IRQ_SET_ACTION_TRIGGER, -1);
  close(edu.event);

  uint8_t* const memory =
      mmap(NULL, 0x200000, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) die("mmap");
  if (edu_map(&edu, 0, memory, 0x400000, 0x200000) != 0) die("VFIO_IOMMU_MAP_DMA");
  for (int i = 0; i < 4096; ++i) memory[i] = (uint8_t)(i * 7);
  edu_enable_dma(&edu);
  check(edu_fetch(&edu, 0x400000, 4096), "interrupt after DMA from memory");
  check(edu_store(&edu, 0x401000, 4096), "interrupt after DMA to memory");
  check(memcmp(memory, memory + 0x1000, 4096) == 0, "DMA there and back");
  return 0;
}
