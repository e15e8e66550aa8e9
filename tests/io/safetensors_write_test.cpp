// The writer: what is written is read back, always with the same bytes, and every tensor lies where its type wants it.
#include <gmock/gmock.h>

#include <cstring>
#include <numeric>

#include "core/io/safetensors.h"
#include "tests/io/support.h"

namespace core {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;

struct Sample {
  std::vector<char> data = std::vector<char>(4096);
  std::vector<TensorToWrite> tensors;

  Sample() {
    std::iota(data.begin(), data.end(), '\0');
    int64_t odd = 1;
    for (const DType dtype : {DType::U8, DType::BOOL, DType::I8, DType::I16, DType::BF16, DType::F16, DType::I32,
                              DType::F32, DType::I64, DType::F64}) {
      const std::string name = name_of(dtype);
      tensors.push_back({name + ".odd", dtype, {odd, 3}, data.data() + odd});
      tensors.push_back({name + ".lines", dtype, {64, 2}, data.data()});
      odd += 2;
    }
    tensors.push_back({"empty", DType::F64, {0, 5}, nullptr});
    tensors.push_back({"scalar", DType::F32, {}, data.data()});
    tensors.push_back({"names/with \"quotes\" \xC3\xA4", DType::U8, {1}, data.data()});
  }
};

TEST(WriteSafetensors, WhatIsWrittenIsReadBack) {
  const Scratch scratch;
  const Sample sample;
  write_safetensors(scratch.file("x.safetensors"), sample.tensors, {{"format", "pt"}, {"note", "a \"b\"\n"}});
  const Checkpoint checkpoint = Checkpoint::open(scratch.file("x.safetensors"));
  EXPECT_EQ(checkpoint.names().size(), sample.tensors.size());
  EXPECT_THAT(checkpoint.metadata(), ElementsAre(Pair("format", "pt"), Pair("note", "a \"b\"\n")));
  for (const TensorToWrite& written : sample.tensors) {
    const TensorView& read = checkpoint.at(written.name);
    EXPECT_EQ(read.dtype, written.dtype) << written.name;
    EXPECT_EQ(read.shape, written.shape) << written.name;
    if (read.bytes > 0) {
      EXPECT_EQ(std::memcmp(read.data, written.data, read.bytes), 0) << written.name;
    }
  }
}

TEST(WriteSafetensors, TensorsAreAligned) {
  const Scratch scratch;
  const Sample sample;
  write_safetensors(scratch.file("x.safetensors"), sample.tensors);
  const Checkpoint checkpoint = Checkpoint::open(scratch.file("x.safetensors"));
  for (const std::string& name : checkpoint.names()) {
    const TensorView& view = checkpoint.at(name);
    const size_t wanted = view.bytes % 64 == 0 ? 64 : size_of(view.dtype);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(view.data) % wanted, 0u) << name;
  }
}

TEST(WriteSafetensors, TheOrderOfTheListDoesNotMatter) {
  const Scratch scratch;
  Sample sample;
  write_safetensors(scratch.file("a"), sample.tensors, {{"k", "v"}});
  std::reverse(sample.tensors.begin(), sample.tensors.end());
  write_safetensors(scratch.file("b"), sample.tensors, {{"k", "v"}});
  EXPECT_EQ(slurp(scratch.file("a")), slurp(scratch.file("b")));
}

TEST(WriteSafetensors, TheBytesAreThese) {
  const Scratch scratch;
  const float value = 1.0f;
  write_safetensors(scratch.file("x"), {{"a", DType::F32, {1}, &value}}, {{"m", "n"}});
  const std::string json = R"({"__metadata__":{"m":"n"},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
  EXPECT_EQ(slurp(scratch.file("x")),
            safetensors_bytes(json + std::string(120 - json.size(), ' '), std::string("\0\0\x80\x3F", 4)));
}

TEST(WriteSafetensors, NoTensorsGiveAFileToo) {
  const Scratch scratch;
  write_safetensors(scratch.file("x"), {});
  EXPECT_TRUE(Checkpoint::open(scratch.file("x")).names().empty());
}

TEST(WriteSafetensors, AWrongListIsOurBug) {
  const Scratch scratch;
  const char data[8] = {};
  const auto write = [&](std::vector<TensorToWrite> tensors) { write_safetensors(scratch.file("x"), tensors); };
  EXPECT_THROW(write({{"a", DType::U8, {1}, data}, {"a", DType::U8, {1}, data}}), std::logic_error);
  EXPECT_THROW(write({{"__metadata__", DType::U8, {1}, data}}), std::logic_error);
  EXPECT_THROW(write({{"a\xFF", DType::U8, {1}, data}}), std::logic_error);
  EXPECT_THROW(write({{"a", DType::U8, {-1}, data}}), std::logic_error);
  EXPECT_THROW(write({{"a", DType::U8, {1}, nullptr}}), std::logic_error);
  EXPECT_THROW(write({{"a", DType::F64, {int64_t{1} << 62}, data}}), std::logic_error);
  EXPECT_TRUE(scratch.listing().empty());
}

TEST(WriteSafetensors, AFailureLeavesTheOldFile) {
  const Scratch scratch;
  const char data[8] = {};
  const std::string blocked = scratch.put("file", "old") + "/x.safetensors";
  EXPECT_EQ(message_of([&] {
              write_safetensors(blocked, {{"a", DType::U8, {8}, data}});
            }),
            blocked + ": cannot be written: a part of the path is a file, not a directory. Choose another place.");
  EXPECT_EQ(slurp(scratch.file("file")), "old");
}

}  // namespace
}  // namespace core
