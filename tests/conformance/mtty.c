// The serial card itself: its configuration space, and its UART as BAR0 shows it.

#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/serial_reg.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "check.h"
#include "fixture.h"

enum { kConfig = VFIO_PCI_CONFIG_REGION_INDEX, kBar0 = VFIO_PCI_BAR0_REGION_INDEX };

static uint32_t read_config(int device, uint64_t offset, size_t size) {
  uint32_t value = 0;
  if (pread(device, &value, size, (off_t)(region_offset(kConfig) + offset)) != (ssize_t)size) {
    give_up("pread config");
  }
  return value;
}

static long write_config(int device, uint64_t offset, uint32_t value, size_t size) {
  return pwrite(device, &value, size, (off_t)(region_offset(kConfig) + offset));
}

static void config_space(void) {
  struct vfio vfio = open_vfio(kDevice);
  unsigned char bytes[255];
  long result =
      pread(vfio.device, bytes, sizeof(bytes), (off_t)region_offset(VFIO_PCI_CONFIG_REGION_INDEX));
  check("read", result);
  const struct {
    const char* name;
    size_t offset, size;
  } fields[] = {
      {"vendor", PCI_VENDOR_ID, 2},
      {"device", PCI_DEVICE_ID, 2},
      {"command", PCI_COMMAND, 2},
      {"status", PCI_STATUS, 2},
      {"revision", PCI_REVISION_ID, 1},
      {"class", PCI_CLASS_PROG, 3},
      {"header_type", PCI_HEADER_TYPE, 1},
      {"bar1", PCI_BASE_ADDRESS_1, 4},
      {"bar2", PCI_BASE_ADDRESS_2, 4},
      {"subsystem", PCI_SUBSYSTEM_VENDOR_ID, 4},
      {"rom", PCI_ROM_ADDRESS, 4},
      {"capabilities", PCI_CAPABILITY_LIST, 1},
      {"interrupt_pin", PCI_INTERRUPT_PIN, 1},
      {"vendor_data", 0x40, 0x60},
      {"rest", 0xa0, 0x5f},
  };
  for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
    check_value(fields[i].name, "%s", hex(bytes + fields[i].offset, fields[i].size));
  }
  const size_t sizes[] = {1, 2, 4};
  for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
    check_value(text("by_%zu", sizes[i]), "%#x", read_config(vfio.device, 0, sizes[i]));
  }
  check_value("unaligned_2", "%#x", read_config(vfio.device, 1, 2));
  check_value("unaligned_4", "%#x", read_config(vfio.device, 1, 4));
}

// Sizes a BAR as every PCI bus driver does, and tries to write what is fixed.
static void config_writes(void) {
  struct vfio vfio = open_vfio(kDevice);
  const struct {
    const char* name;
    uint64_t offset;
    size_t size;
    uint32_t value;
  } rows[] = {
      {"bar0.size", PCI_BASE_ADDRESS_0, 4, 0xffffffff},
      {"bar0.address", PCI_BASE_ADDRESS_0, 4, 0x0000c000},
      {"bar0.zero", PCI_BASE_ADDRESS_0, 4, 0},
      {"bar1.size", PCI_BASE_ADDRESS_1, 4, 0xffffffff},
      {"bar2.size", PCI_BASE_ADDRESS_2, 4, 0xffffffff},
      {"bar5.size", PCI_BASE_ADDRESS_5, 4, 0xffffffff},
      {"rom.size", PCI_ROM_ADDRESS, 4, 0xfffff800},
      {"vendor", PCI_VENDOR_ID, 2, 0xffff},
      {"command.off", PCI_COMMAND, 2, 0},
      {"command.on", PCI_COMMAND, 2, PCI_COMMAND_IO | PCI_COMMAND_MASTER},
      {"status", PCI_STATUS, 2, 0xffff},
      {"line", PCI_INTERRUPT_LINE, 1, 0x0b},
      {"line.zero", PCI_INTERRUPT_LINE, 1, 0},
      {"pin", PCI_INTERRUPT_PIN, 1, 4},
      {"cache_line", PCI_CACHE_LINE_SIZE, 1, 0x10},
      {"latency", PCI_LATENCY_TIMER, 1, 0x20},
      {"vendor_data", 0x40, 4, 0},
      {"unused", 0x90, 4, 0xffffffff},
  };
  for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
    const uint32_t before = read_config(vfio.device, rows[i].offset, rows[i].size);
    long result = write_config(vfio.device, rows[i].offset, rows[i].value, rows[i].size);
    const uint32_t after = read_config(vfio.device, rows[i].offset, rows[i].size);
    check_out(rows[i].name, result, "before=%#x after=%#x", before, after);
  }
}

// ---- The UART

static uint8_t in(int device, unsigned reg) { return read8(device, kBar0, reg); }
static void out(int device, unsigned reg, uint8_t value) { write8(device, kBar0, reg, value); }

// As close to a fresh UART as its registers allow; other cases have used it before.
static void reset_uart(int device) {
  out(device, UART_LCR, 0);
  out(device, UART_IER, 0);
  out(device, UART_MCR, 0);
  out(device, UART_SCR, 0);
  out(device, UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_CLEAR_RCVR | UART_FCR_CLEAR_XMIT);
  out(device, UART_TX, 0);  // Clears a former overrun.
  out(device, UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_CLEAR_RCVR | UART_FCR_CLEAR_XMIT);
}

static struct vfio open_uart(void) {
  struct vfio vfio = open_vfio(kDevice);
  struct vfio_device_info info = {.argsz = sizeof(info)};
  if (ioctl(vfio.device, VFIO_DEVICE_GET_INFO, &info)) {
    give_up("GET_INFO");
  }
  reset_uart(vfio.device);
  return vfio;
}

static void report_registers(const char* name, int device) {
  check_value(name, "ier=%#x iir=%#x lcr=%#x mcr=%#x lsr=%#x msr=%#x scr=%#x", in(device, UART_IER),
              in(device, UART_IIR), in(device, UART_LCR), in(device, UART_MCR),
              in(device, UART_LSR), in(device, UART_MSR), in(device, UART_SCR));
}

static void registers(void) {
  struct vfio vfio = open_uart();
  report_registers("reset", vfio.device);
  const struct {
    const char* name;
    unsigned reg;
  } plain[] = {
      {"ier", UART_IER}, {"lcr", UART_LCR}, {"mcr", UART_MCR},
      {"lsr", UART_LSR}, {"msr", UART_MSR}, {"scr", UART_SCR},
  };
  const uint8_t values[] = {0x55, 0x2a, 0x7f, 0xff, 0x00};
  for (size_t i = 0; i < ARRAY_SIZE(plain); i++) {
    for (size_t j = 0; j < ARRAY_SIZE(values); j++) {
      out(vfio.device, plain[i].reg, values[j]);
      check_value(text("%s.%#04x", plain[i].name, values[j]), "%#x", in(vfio.device, plain[i].reg));
    }
    reset_uart(vfio.device);
  }
}

static void divisor(void) {
  struct vfio vfio = open_uart();
  const struct {
    const char* name;
    uint8_t low, high;
  } rows[] = {{"9600", 12, 0}, {"300", 0x80, 0x01}, {"largest", 0xff, 0xff}, {"zero", 0, 0}};
  out(vfio.device, UART_TX, 'x');
  for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
    out(vfio.device, UART_LCR, UART_LCR_DLAB);
    out(vfio.device, UART_DLL, rows[i].low);
    out(vfio.device, UART_DLM, rows[i].high);
    check_value(rows[i].name, "%#x,%#x", in(vfio.device, UART_DLL), in(vfio.device, UART_DLM));
    out(vfio.device, UART_LCR, UART_LCR_WLEN8);
    check_value(text("%s.ier", rows[i].name), "%#x", in(vfio.device, UART_IER));
  }
  // A second byte for the same half, without selecting the divisor anew.
  out(vfio.device, UART_LCR, UART_LCR_DLAB);
  out(vfio.device, UART_DLL, 0x0f);
  out(vfio.device, UART_DLL, 0xf0);
  check_value("twice", "%#x,%#x", in(vfio.device, UART_DLL), in(vfio.device, UART_DLM));
  out(vfio.device, UART_LCR, 0);
  check_value("data_kept", "%c", in(vfio.device, UART_RX));
}

// With `fifo` bytes of room, more are sent than fit.
static void check_overrun(const char* prefix, int device, uint8_t fcr, unsigned sent) {
  out(device, UART_FCR, fcr | UART_FCR_CLEAR_RCVR);
  out(device, UART_TX, 0);
  out(device, UART_FCR, fcr | UART_FCR_CLEAR_RCVR);
  check_value(text("%s.empty", prefix), "lsr=%#x", in(device, UART_LSR));
  for (unsigned i = 0; i < sent; i++) {
    out(device, UART_TX, (uint8_t)('a' + i));
    check_value(text("%s.sent.%u", prefix, i + 1), "lsr=%#x", in(device, UART_LSR));
  }
  char received[32] = "";
  // A full FIFO of the kernel's sample looks empty, as both ends are in one place: it gives nothing
  // back.
  for (size_t i = 0; i + 1 < sizeof(received) && in(device, UART_LSR) & UART_LSR_DR; i++) {
    received[i] = (char)in(device, UART_RX);
  }
  check_value(text("%s.received", prefix), "%s lsr=%#x", received, in(device, UART_LSR));
}

static void fifo(void) {
  struct vfio vfio = open_uart();
  check_overrun("fifo_off", vfio.device, 0, 3);
  reset_uart(vfio.device);
  check_overrun("partly", vfio.device, UART_FCR_ENABLE_FIFO, 15);
  reset_uart(vfio.device);
  check_overrun("overrun", vfio.device, UART_FCR_ENABLE_FIFO, 18);
  reset_uart(vfio.device);

  // Bytes leave in the order they came, around the end of the ring.
  for (int round = 0; round < 4; round++) {
    char received[16] = "";
    for (int i = 0; i < 7; i++) {
      out(vfio.device, UART_TX, (uint8_t)('a' + round * 7 + i - (round == 3 ? 26 : 0)));
    }
    for (int i = 0; i < 7; i++) {
      received[i] = (char)in(vfio.device, UART_RX);
    }
    check_value(text("ring.%d", round), "%s", hex(received, 7));
  }
  // The overrun flag: reading it does not clear it, the next byte that fits does.
  for (int i = 0; i < 17; i++) {
    out(vfio.device, UART_TX, 'x');
  }
  check_value("sticky.first", "%#x", in(vfio.device, UART_LSR));
  check_value("sticky.second", "%#x", in(vfio.device, UART_LSR));
  out(vfio.device, UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_CLEAR_RCVR);
  check_value("sticky.cleared_fifo", "%#x", in(vfio.device, UART_LSR));
  out(vfio.device, UART_TX, 'y');
  check_value("sticky.next_byte", "%#x", in(vfio.device, UART_LSR));
  // Clearing by either bit of FCR empties both directions, which are one.
  out(vfio.device, UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_CLEAR_XMIT);
  check_value("clear.xmit", "%#x", in(vfio.device, UART_LSR));
  out(vfio.device, UART_TX, 'z');
  out(vfio.device, UART_FCR, 0);
  check_value("disabled_keeps", "%#x", in(vfio.device, UART_LSR));
}

static void identification(void) {
  struct vfio vfio = open_uart();
  const uint8_t triggers[] = {UART_FCR_TRIGGER_1, UART_FCR_TRIGGER_4, UART_FCR_TRIGGER_8,
                              UART_FCR_TRIGGER_14};
  for (uint8_t ier = 0; ier < 16; ier++) {
    out(vfio.device, UART_IER, ier);
    check_value(text("empty.ier_%#x", ier), "%#x", in(vfio.device, UART_IIR));
  }
  for (size_t i = 0; i < ARRAY_SIZE(triggers); i++) {
    out(vfio.device, UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_CLEAR_RCVR | triggers[i]);
    out(vfio.device, UART_IER, UART_IER_RDI);
    for (int sent = 1; sent <= 15; sent++) {
      out(vfio.device, UART_TX, 'x');
      if (sent == 1 || sent == 4 || sent == 8 || sent == 14) {
        check_value(text("trigger_%#x.sent_%d", triggers[i], sent), "%#x",
                    in(vfio.device, UART_IIR));
      }
    }
  }
  for (int overrun = 0; overrun <= 1; overrun++) {
    reset_uart(vfio.device);
    for (int i = 0; i < (overrun ? 17 : 2); i++) {
      out(vfio.device, UART_TX, 'x');
    }
    out(vfio.device, UART_MCR, UART_MCR_RTS);
    for (uint8_t ier = 0; ier < 16; ier++) {
      out(vfio.device, UART_IER, ier);
      check_value(text("%s.ier_%#x", overrun ? "overrun" : "data", ier), "%#x",
                  in(vfio.device, UART_IIR));
    }
  }
}

static void modem(void) {
  struct vfio vfio = open_uart();
  const uint8_t values[] = {0,
                            UART_MCR_DTR,
                            UART_MCR_RTS,
                            UART_MCR_OUT1,
                            UART_MCR_OUT2,
                            UART_MCR_LOOP,
                            UART_MCR_AFE,
                            UART_MCR_LOOP | UART_MCR_RTS | UART_MCR_DTR | UART_MCR_OUT2};
  for (int full = 0; full <= 1; full++) {
    for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
      out(vfio.device, UART_MCR, values[i]);
      check_value(text("%s.mcr_%#x", full ? "full" : "empty", values[i]), "mcr=%#x msr=%#x",
                  in(vfio.device, UART_MCR), in(vfio.device, UART_MSR));
    }
    for (int sent = 0; sent < 16; sent++) {
      out(vfio.device, UART_TX, 'x');
    }
  }
}

static long unmask_intx(int device) {
  struct vfio_irq_set set = {.argsz = sizeof(set),
                             .flags = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK,
                             .index = VFIO_PCI_INTX_IRQ_INDEX,
                             .count = 1};
  return ioctl(device, VFIO_DEVICE_SET_IRQS, &set);
}

// Which register accesses interrupt, and how often.
static void interrupts(void) {
  const struct {
    const char* name;
    uint32_t index;
  } kinds[] = {{"intx", VFIO_PCI_INTX_IRQ_INDEX}, {"msi", VFIO_PCI_MSI_IRQ_INDEX}};
  enum access { kOut, kIn, kUnmaskIntx };
  const struct {
    const char* name;
    enum access access;
    unsigned reg;
    uint8_t value;
  } steps[] = {
      {"send_disabled", kOut, UART_TX, 'a'},
      {"enable_receive", kOut, UART_IER, UART_IER_RDI},
      {"send_second", kOut, UART_TX, 'b'},
      {"read_first", kIn, UART_RX, 0},
      {"read_second", kIn, UART_RX, 0},
      {"send_first", kOut, UART_TX, 'c'},
      {"send_masked", kOut, UART_TX, 'd'},
      {"unmask", kUnmaskIntx, 0, 0},
      {"identify", kIn, UART_IIR, 0},
      {"drain_1", kIn, UART_RX, 0},
      {"drain_2", kIn, UART_RX, 0},
      {"send_after_unmask", kOut, UART_TX, 'e'},
      {"unmask_2", kUnmaskIntx, 0, 0},
      {"drain_3", kIn, UART_RX, 0},
      {"enable_transmit", kOut, UART_IER, UART_IER_THRI},
      {"unmask_3", kUnmaskIntx, 0, 0},
      {"enable_transmit_again", kOut, UART_IER, UART_IER_THRI},
      {"unmask_4", kUnmaskIntx, 0, 0},
      {"send_with_transmit", kOut, UART_TX, 'f'},
      {"drain_with_transmit", kIn, UART_RX, 0},
      {"unmask_5", kUnmaskIntx, 0, 0},
      {"enable_modem", kOut, UART_IER, UART_IER_MSI},
      {"raise_out2", kOut, UART_MCR, UART_MCR_OUT2},
      {"unmask_6", kUnmaskIntx, 0, 0},
      {"raise_rts", kOut, UART_MCR, UART_MCR_RTS},
      {"unmask_7", kUnmaskIntx, 0, 0},
      {"raise_all", kOut, UART_MCR, UART_MCR_RTS | UART_MCR_DTR | UART_MCR_OUT2},
      {"unmask_8", kUnmaskIntx, 0, 0},
      {"lower_all", kOut, UART_MCR, 0},
      {"enable_line_status", kOut, UART_IER, UART_IER_RLSI},
      {"fifo_off", kOut, UART_FCR, UART_FCR_CLEAR_RCVR},
      {"send_fits", kOut, UART_TX, 'g'},
      {"send_overrun", kOut, UART_TX, 'h'},
      {"send_overrun_again", kOut, UART_TX, 'i'},
      {"disable", kOut, UART_IER, 0},
      {"unmask_9", kUnmaskIntx, 0, 0},
  };
  for (size_t kind = 0; kind < ARRAY_SIZE(kinds); kind++) {
    struct vfio vfio = open_uart();
    int eventfd = make_eventfd();
    check(text("%s.enable", kinds[kind].name),
          set_trigger(vfio.device, kinds[kind].index, eventfd));
    for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
      const char* name = text("%s.%s", kinds[kind].name, steps[i].name);
      const char* value = "";
      switch (steps[i].access) {
        case kOut:
          out(vfio.device, steps[i].reg, steps[i].value);
          break;
        case kIn:
          value = text("value=%#x ", in(vfio.device, steps[i].reg));
          break;
        case kUnmaskIntx:
          value = text("ret=%ld ", unmask_intx(vfio.device));
          break;
      }
      check_value(name, "%ssignals=%llu", value, (unsigned long long)take_signals(eventfd));
    }
    close_vfio(&vfio);
    close(eventfd);
  }
}

// One interrupt line, several bytes a call: a wide write is one register write.
static void wide_access(void) {
  struct vfio vfio = open_uart();
  const off_t bar0 = (off_t)region_offset(kBar0);
  check("write.2_at_tx", pwrite(vfio.device, "ab", 2, bar0));
  check_value("registers.2", "ier=%#x lsr=%#x", in(vfio.device, UART_IER),
              in(vfio.device, UART_LSR));
  check_value("received.2", "%c", in(vfio.device, UART_RX));
  check("write.4_at_tx", pwrite(vfio.device, "cdef", 4, bar0));
  const uint8_t received = in(vfio.device, UART_RX);
  check_value("received.4", "%c lsr=%#x", received, in(vfio.device, UART_LSR));
  check("write.2_at_6", pwrite(vfio.device, "gh", 2, bar0 + 6));
  check_value("scratch.2_at_6", "%#x", in(vfio.device, UART_SCR));
  check("write.1_at_7", pwrite(vfio.device, "h", 1, bar0 + 7));
  check_value("scratch.1_at_7", "%#x", in(vfio.device, UART_SCR));
  uint32_t value = 0;
  check("read.4_at_4", pread(vfio.device, &value, 4, bar0 + 4));
  check_value("read.4_at_4.low_byte", "%#x", value & 0xff);
}

static const struct test_case kCases[] = {
    {"config", config_space},
    {"config_writes", config_writes},
    {"registers", registers},
    {"divisor", divisor},
    {"fifo", fifo},
    {"identification", identification},
    {"modem", modem},
    {"interrupts", interrupts},
    {"wide_access", wide_access},
};

const struct section mtty_section = {
    .name = "mtty",
    .summary = "the serial card: configuration space, UART, its interrupts",
    .cases = kCases,
    .num_cases = ARRAY_SIZE(kCases),
};
