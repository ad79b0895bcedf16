// The DMA channel: what its registers make it do. No thread and no lock of its own.
//
// Its registers are memory that a client may have mapped, so the channel never hears of a write; it
// finds it. A value that is written again unchanged cannot be found. So the channel takes away what
// it has seen: a command and CHANCTRL's re-arm bit are cleared once obeyed, and CHAINADDR and
// DMACOUNT read as zero while it is stopped.
#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "devices/ioat/registers.h"
#include "devices/ioat/transfer.h"
#include "uvfio/pci.h"

namespace uvfio::ioat {

class Channel {
 public:
  Channel(pci::Port& port, RegisterFile registers, Faults faults);

  // Power-on values everywhere, and no DMA handle held.
  void reset();

  // An access that was not made through a mapping.
  [[nodiscard]] std::uint64_t read(std::uint64_t offset, unsigned width);
  void write(std::uint64_t offset, unsigned width, std::uint64_t value);

  // Finds what has been written through a mapping, and obeys. True: there was something.
  bool observe();
  // Executes the next descriptor, if there is one. False: nothing to do now.
  bool execute();

  [[nodiscard]] bool stopped() const {
    return state_ != ChanState::active && state_ != ChanState::idle;
  }

 private:
  struct Engine {
    vfio::Dma descriptors;
    Transfer transfer;
  };

  bool observe_command();
  bool observe_errors();
  bool observe_count();
  [[nodiscard]] std::uint16_t control() const;  // CHANCTRL but for the re-arm bit
  void command(std::uint8_t bits);
  void clear_errors(std::uint32_t bits);
  void start(std::uint64_t chain);
  void resume();
  void stop(ChanState state);
  void publish(ChanState state);
  void fail_with(std::uint32_t error);

  Engine* engine();
  [[nodiscard]] std::uint32_t run(const Descriptor& descriptor, bool& stalled);
  // False: the client's memory refused.
  [[nodiscard]] bool write_completion();

  void interrupt();
  void rearm();
  void acknowledge();
  void announce();

  pci::Port& port_;
  RegisterFile registers_;
  const Faults faults_;
  std::unique_ptr<Engine> engine_;

  ChanState state_ = ChanState::halted;
  std::uint64_t next_ = 0;       // descriptor to fetch
  bool first_ = false;           // it comes from CHAINADDR
  std::uint64_t completed_ = 0;  // the last descriptor that is done
  std::uint16_t done_ = 0;       // descriptors since the start of the chain, as DMACOUNT counts
  std::uint16_t issued_ = 0;     // DMACOUNT as last seen
  std::uint32_t errors_ = 0;     // CHANERR

  bool armed_ = true;    // the next interrupt may be sent
  bool missed_ = false;  // one came while it might not
  bool intx_ = false;
  // Since the channel was stopped, and then.
  bool interrupts_were_off_ = false;
  std::uint16_t control_then_ = 0;
  bool suspended_halted_ = false;  // the last command: a suspend while halted

  // CHANCMP and CHAINADDR as last seen: written before a start, and so a sign that one is near.
  std::array<std::uint64_t, 2> setup_seen_{};
};

}  // namespace uvfio::ioat
