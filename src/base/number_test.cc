#include "base/number.h"

#include <gtest/gtest.h>

namespace uvfio {
namespace {

TEST(ParseUnsigned, ReadsWhatKstrtoulReads) {
  EXPECT_EQ(parse_unsigned("1"), 1u);
  EXPECT_EQ(parse_unsigned("1\n"), 1u);
  EXPECT_EQ(parse_unsigned("+7"), 7u);
  EXPECT_EQ(parse_unsigned("0x1F\n"), 0x1fu);
  EXPECT_EQ(parse_unsigned("017"), 017u);
  EXPECT_EQ(parse_unsigned("0"), 0u);
}

TEST(ParseUnsigned, RefusesTheRest) {
  for (const char* text : {"", "\n", "x", "1 ", " 1", "-1", "1\n\n", "0x", "08", "1x"}) {
    EXPECT_EQ(parse_unsigned(text), fail(EINVAL)) << text;
  }
  EXPECT_EQ(parse_unsigned("18446744073709551616"), fail(ERANGE));
}

}  // namespace
}  // namespace uvfio
