// The serial ports that one parent has to give.
#pragma once

#include <atomic>
#include <optional>
#include <utility>

namespace uvfio::mtty {

class PortPool;

// Some ports of a pool, given back when this goes. Move only.
class PortReservation {
 public:
  PortReservation() = default;
  PortReservation(PortReservation&& other) noexcept
      : pool_(std::exchange(other.pool_, nullptr)), ports_(std::exchange(other.ports_, 0)) {}
  PortReservation& operator=(PortReservation&& other) noexcept {
    std::swap(pool_, other.pool_);
    std::swap(ports_, other.ports_);
    return *this;
  }
  inline ~PortReservation();

 private:
  friend class PortPool;
  PortReservation(PortPool& pool, unsigned ports) : pool_(&pool), ports_(ports) {}

  PortPool* pool_ = nullptr;
  unsigned ports_ = 0;
};

// Thread-safe. Outlives its reservations.
class PortPool {
 public:
  explicit PortPool(unsigned ports) : free_(ports) {}
  PortPool(const PortPool&) = delete;

  [[nodiscard]] unsigned free() const { return free_; }
  // nullopt: fewer than `ports` are free.
  [[nodiscard]] std::optional<PortReservation> reserve(unsigned ports) {
    unsigned free = free_;
    do {
      if (free < ports) return std::nullopt;
    } while (!free_.compare_exchange_weak(free, free - ports));
    return PortReservation(*this, ports);
  }

 private:
  friend class PortReservation;
  std::atomic<unsigned> free_;
};

PortReservation::~PortReservation() {
  if (pool_ != nullptr) pool_->free_ += ports_;
}

}  // namespace uvfio::mtty
