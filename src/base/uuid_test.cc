#include "uvfio/uuid.h"

#include <gtest/gtest.h>

namespace uvfio {
namespace {

TEST(Uuid, RoundTripsInLowerCase) {
  const auto uuid = Uuid::parse("83B8F4F2-509F-382f-3c1e-e6bfe0fa1001");
  ASSERT_TRUE(uuid);
  EXPECT_EQ(uuid->to_string(), "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001");
  EXPECT_EQ(Uuid::parse(uuid->to_string()), *uuid);
}

TEST(Uuid, RefusesWhatIsNotOne) {
  for (const char* text :
       {"", "83b8f4f2-509f-382f-3c1e-e6bfe0fa100", "83b8f4f2-509f-382f-3c1e-e6bfe0fa10011",
        "83b8f4f2x509f-382f-3c1e-e6bfe0fa1001", "83b8f4f2-509f-382f-3c1e-e6bfe0fa100g",
        "83b8f4f25-09f-382f-3c1e-e6bfe0fa1001"}) {
    EXPECT_EQ(Uuid::parse(text), fail(EINVAL)) << text;
  }
}

TEST(Uuid, RandomOnesDiffer) { EXPECT_NE(Uuid::random(), Uuid::random()); }

}  // namespace
}  // namespace uvfio
