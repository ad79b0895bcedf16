#include "vfio/migration.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <vector>

#include "uvfio/vfio_compat.h"

namespace uvfio::vfio {
namespace {

using testing::ElementsAre;

constexpr std::uint32_t kError = VFIO_DEVICE_STATE_ERROR;
constexpr std::uint32_t kStop = VFIO_DEVICE_STATE_STOP;
constexpr std::uint32_t kRun = VFIO_DEVICE_STATE_RUNNING;
constexpr std::uint32_t kStopCopy = VFIO_DEVICE_STATE_STOP_COPY;
constexpr std::uint32_t kResume = VFIO_DEVICE_STATE_RESUMING;
constexpr std::uint32_t kRunP2p = VFIO_DEVICE_STATE_RUNNING_P2P;
constexpr std::uint32_t kPre = VFIO_DEVICE_STATE_PRE_COPY;
constexpr std::uint32_t kPreP2p = VFIO_DEVICE_STATE_PRE_COPY_P2P;

constexpr std::uint32_t kAll =
    VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P | VFIO_MIGRATION_PRE_COPY;

std::optional<std::uint32_t> next(std::uint32_t flags, std::uint32_t from, std::uint32_t to) {
  const Result<std::uint32_t> result = next_state(flags, from, to);
  if (!result) {
    EXPECT_EQ(result.error(), Errno{EINVAL});
    return std::nullopt;
  }
  return *result;
}

TEST(NextState, FollowsTheWholeTable) {
  constexpr auto kNo = kError;
  const std::vector<std::uint32_t> columns{kStop, kRun, kPre, kPreP2p, kStopCopy, kResume, kRunP2p};
  const std::vector<std::pair<std::uint32_t, std::vector<std::uint32_t>>> rows{
      {kStop, {kStop, kRunP2p, kRunP2p, kRunP2p, kStopCopy, kResume, kRunP2p}},
      {kRun, {kRunP2p, kRun, kPre, kRunP2p, kRunP2p, kRunP2p, kRunP2p}},
      {kPre, {kRun, kRun, kPre, kPreP2p, kPreP2p, kRun, kRun}},
      {kPreP2p, {kRunP2p, kRunP2p, kPre, kPreP2p, kStopCopy, kRunP2p, kRunP2p}},
      {kStopCopy, {kStop, kStop, kNo, kNo, kStopCopy, kStop, kStop}},
      {kResume, {kStop, kStop, kStop, kStop, kStop, kResume, kStop}},
      {kRunP2p, {kStop, kRun, kRun, kPreP2p, kStop, kStop, kRunP2p}},
      {kError, {kNo, kNo, kNo, kNo, kNo, kNo, kNo}},
  };
  for (const auto& [from, steps] : rows) {
    for (std::size_t i = 0; i < columns.size(); ++i) {
      const auto expected = steps[i] == kNo ? std::nullopt : std::optional(steps[i]);
      EXPECT_EQ(next(kAll, from, columns[i]), expected) << from << " to " << columns[i];
    }
    EXPECT_EQ(next(kAll, from, kError), std::nullopt) << from;
  }
}

TEST(NextState, RefusesWhatTheDeviceDoesNotHave) {
  EXPECT_EQ(next(kAll, kStop, 8), std::nullopt);
  EXPECT_EQ(next(kAll, 8, kStop), std::nullopt);
  EXPECT_EQ(next(kAll, kStop, UINT32_MAX), std::nullopt);
  EXPECT_EQ(next(VFIO_MIGRATION_STOP_COPY, kRun, kRunP2p), std::nullopt);
  EXPECT_EQ(next(VFIO_MIGRATION_STOP_COPY, kRun, kPre), std::nullopt);
  EXPECT_EQ(next(VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P, kRun, kPreP2p), std::nullopt);
  EXPECT_EQ(next(VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_PRE_COPY, kPre, kPreP2p), std::nullopt);
  EXPECT_EQ(next(VFIO_MIGRATION_STOP_COPY, kPre, kStop), std::nullopt);
  EXPECT_EQ(next(0, kRun, kStop), std::nullopt);
}

TEST(NextState, PassesOverStatesThatTheDeviceDoesNotHave) {
  constexpr std::uint32_t kPlain = VFIO_MIGRATION_STOP_COPY;
  EXPECT_EQ(next(kPlain, kRun, kStop), kStop);
  EXPECT_EQ(next(kPlain, kStop, kRun), kRun);
  EXPECT_EQ(next(kPlain, kRun, kResume), kStop);
  EXPECT_EQ(next(kPlain, kRun, kStopCopy), kStop);
  constexpr std::uint32_t kPreCopy = VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_PRE_COPY;
  EXPECT_EQ(next(kPreCopy, kPre, kStopCopy), kStopCopy);
  EXPECT_EQ(next(kPreCopy, kStop, kPre), kRun);
}

// Steps until the state is reached must end, for every set of flags.
TEST(NextState, EveryWayEnds) {
  for (std::uint32_t flags = 0; flags < 8; ++flags) {
    for (std::uint32_t from = 0; from < 8; ++from) {
      for (std::uint32_t to = 0; to < 8; ++to) {
        std::uint32_t state = from;
        int steps = 0;
        for (; state != to && steps < 10; ++steps) {
          const auto step = next(flags, state, to);
          if (!step) break;
          state = *step;
        }
        EXPECT_LT(steps, 10) << flags << ": " << from << " to " << to;
      }
    }
  }
}

class FakeStream : public MigrationStream {
 public:
  Result<std::size_t> read(std::span<std::byte>) override { return 0; }
  Result<std::size_t> write(std::span<const std::byte>) override { return fail(EINVAL); }
};

class FakeMigration : public Migration {
 public:
  std::uint32_t flags() const override { return kAll; }
  std::uint32_t state() override { return state_; }
  Result<std::shared_ptr<MigrationStream>> step(std::uint32_t next) override {
    if (next == fails_) return fail(EIO);
    const bool opens = next == kResume || (next == kStopCopy && state_ == kStop) || next == stray_;
    state_ = next;
    steps_.push_back(next);
    if (!opens) return nullptr;
    return std::make_shared<FakeStream>();
  }
  Result<std::uint64_t> data_size() override { return 0; }

  std::uint32_t state_ = kRun;
  std::optional<std::uint32_t> fails_, stray_;
  std::vector<std::uint32_t> steps_;
};

TEST(SetState, WalksEveryArcAndReturnsTheLastStream) {
  FakeMigration migration;
  const auto stream = set_state(migration, kResume);
  ASSERT_TRUE(stream);
  EXPECT_NE(*stream, nullptr);
  EXPECT_THAT(migration.steps_, ElementsAre(kRunP2p, kStop, kResume));
}

TEST(SetState, DoesNothingWhereItIs) {
  FakeMigration migration;
  const auto stream = set_state(migration, kRun);
  ASSERT_TRUE(stream);
  EXPECT_EQ(*stream, nullptr);
  EXPECT_THAT(migration.steps_, ElementsAre());
}

TEST(SetState, PreCopyKeepsItsStream) {
  FakeMigration migration;
  migration.state_ = kPre;
  const auto stream = set_state(migration, kStopCopy);
  ASSERT_TRUE(stream);
  EXPECT_EQ(*stream, nullptr);
  EXPECT_THAT(migration.steps_, ElementsAre(kPreP2p, kStopCopy));
}

TEST(SetState, StaysWhereAStepFails) {
  FakeMigration migration;
  migration.fails_ = kStop;
  EXPECT_EQ(set_state(migration, kStopCopy).error(), Errno{EIO});
  EXPECT_EQ(get_state(migration), kRunP2p);
}

TEST(SetState, RefusesAStateThatDoesNotExist) {
  FakeMigration migration;
  EXPECT_EQ(set_state(migration, 8).error(), Errno{EINVAL});
  EXPECT_EQ(set_state(migration, kError).error(), Errno{EINVAL});
  EXPECT_THAT(migration.steps_, ElementsAre());
}

TEST(SetState, RefusesAStreamInTheMiddle) {
  FakeMigration migration;
  migration.stray_ = kRunP2p;
  EXPECT_EQ(set_state(migration, kStop).error(), Errno{EINVAL});
  EXPECT_EQ(get_state(migration), kRunP2p);
}

}  // namespace
}  // namespace uvfio::vfio
