// The least that a model can be; where docs/write-a-device.md starts.
#include <gtest/gtest.h>

#include <memory>

#include "pci/function.h"
#include "uvfio/pci.h"

namespace uvfio::endpoint {
namespace {

class FirstModel final : public pci::Model {
 public:
  const pci::Description& description() const override { return description_; }
  void connect(pci::Port&) override {}
  std::uint64_t read_bar(unsigned, std::uint64_t, unsigned) override { return 0; }
  void write_bar(unsigned, std::uint64_t, unsigned, std::uint64_t) override {}
  void reset() override {}

 private:
  const pci::Description description_{
      .vendor_id = 0x104c, .device_id = 0xb500, .class_code = 0xff0000};
};

TEST(FirstModelTest, IsAFunction) {
  const auto function = pci::Function::create(std::make_unique<FirstModel>());
  ASSERT_TRUE(function);
  EXPECT_EQ((*function)->config_get(0, 4), 0xb500104cu);
}

}  // namespace
}  // namespace uvfio::endpoint
