// The reader: what a good file gives, and every way to break one with the exact message.
#include "core/io/safetensors.h"

#include <gmock/gmock.h>

#include <cstring>
#include <memory>

#include "tests/io/support.h"

namespace core {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;

constexpr const char* kAgain = " Download or write the file again.";

// Opens a file of these bytes and returns the message without the path in front.
std::string message_for(const std::string& bytes) {
  const Scratch scratch;
  const std::string path = scratch.put("x.safetensors", bytes);
  const std::string message = message_of([&] { Checkpoint::open(path); });
  EXPECT_EQ(message.rfind(path + ": ", 0), 0u) << message;
  return message.substr(std::min(message.size(), path.size() + 2));
}

std::string message_for_header(const std::string& header, size_t data_bytes = 0) {
  return message_for(safetensors_bytes(header, std::string(data_bytes, '\0')));
}

TEST(Safetensors, GivesDtypeShapeAndBytes) {
  const Scratch scratch;
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},)"
      R"("a":{"dtype":"BF16","shape":[],"data_offsets":[8,10]},"z":{"dtype":"I64","shape":[3,0],"data_offsets":[10,10]}}  )";
  const std::string path = scratch.put("x.safetensors", safetensors_bytes(header, "0123456789"));
  const Checkpoint checkpoint = Checkpoint::open(path);
  EXPECT_THAT(checkpoint.names(), ElementsAre("a", "b", "z"));
  EXPECT_THAT(checkpoint.files(), ElementsAre(path));
  EXPECT_THAT(checkpoint.metadata(), ElementsAre(Pair("format", "pt")));
  EXPECT_EQ(checkpoint.total_bytes(), 10u);
  EXPECT_TRUE(checkpoint.has("b"));
  EXPECT_FALSE(checkpoint.has("__metadata__"));

  const TensorView& b = checkpoint.at("b");
  EXPECT_EQ(b.dtype, DType::F32);
  EXPECT_THAT(b.shape, ElementsAre(2, 1));
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(b.data), b.bytes), "01234567");
  EXPECT_THAT(checkpoint.at("a").shape, ElementsAre());
  EXPECT_EQ(checkpoint.at("a").bytes, 2u);
  EXPECT_EQ(checkpoint.at("z").bytes, 0u);
}

TEST(Safetensors, AFileWithoutTensorsIsGood) {
  const Scratch scratch;
  EXPECT_THAT(Checkpoint::open(scratch.put("x.safetensors", safetensors_bytes("{}"))).names(), ElementsAre());
}

TEST(Safetensors, ACopyKeepsTheMappingAlive) {
  const Scratch scratch;
  const std::string header = R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}})";
  const std::string path = scratch.put("x.safetensors", safetensors_bytes(header, "abc"));
  auto first = std::make_unique<Checkpoint>(Checkpoint::open(path));
  const Checkpoint second = *first;
  first.reset();
  EXPECT_EQ(std::memcmp(second.at("a").data, "abc", 3), 0);
}

TEST(Safetensors, AReleasedTensorIsReadAgain) {
  const Scratch scratch;
  const std::string data(100'000, 'q');
  const std::string header = R"({"a":{"dtype":"U8","shape":[100000],"data_offsets":[0,100000]}})";
  const Checkpoint checkpoint = Checkpoint::open(scratch.put("x.safetensors", safetensors_bytes(header, data)));
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(std::memcmp(checkpoint.at("a").data, data.data(), data.size()), 0);
    checkpoint.release(checkpoint.at("a"));
  }
}

TEST(Safetensors, AMissingTensorIsNamedWithTheNearest) {
  const Scratch scratch;
  const std::string header = R"({"model.norm.weight":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})";
  const std::string path = scratch.put("x.safetensors", safetensors_bytes(header, "a"));
  const Checkpoint checkpoint = Checkpoint::open(path);
  EXPECT_EQ(message_of([&] { checkpoint.at("model.norm.wieght"); }),
            path + ": there is no tensor `model.norm.wieght`. Did you mean `model.norm.weight`?");
  EXPECT_EQ(message_of([&] { checkpoint.at("lm_head"); }),
            path + ": there is no tensor `lm_head`. Is this the right checkpoint? It holds 1 tensors.");
}

TEST(Safetensors, AnUnreadTypeIsRefusedWhenUsedNotWhenOpened) {
  const Scratch scratch;
  const std::string header =
      R"({"a":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"Q9","shape":[7],"data_offsets":[2,3]}})";
  const std::string path = scratch.put("x.safetensors", safetensors_bytes(header, "abc"));
  const Checkpoint checkpoint = Checkpoint::open(path);
  EXPECT_TRUE(checkpoint.has("a"));
  const std::string known = ". Types that are read: F64, F32, F16, BF16, I64, I32, I16, I8, U8, BOOL.";
  EXPECT_EQ(message_of([&] { checkpoint.at("a"); }), path + ": tensor `a` has the element type F8_E4M3" + known);
  EXPECT_EQ(message_of([&] { checkpoint.at("b"); }), path + ": tensor `b` has the element type Q9" + known);
}

TEST(Safetensors, EveryTypeHasItsSizeAndName) {
  const std::vector<std::pair<std::string, size_t>> expected = {{"F64", 8}, {"F32", 4}, {"F16", 2}, {"BF16", 2},
                                                                {"I64", 8}, {"I32", 4}, {"I16", 2}, {"I8", 1},
                                                                {"U8", 1},  {"BOOL", 1}};
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(name_of(static_cast<DType>(i)), expected[i].first);
    EXPECT_EQ(size_of(static_cast<DType>(i)), expected[i].second) << expected[i].first;
  }
}

TEST(SafetensorsBroken, HeaderLength) {
  const std::string few = " bytes are too few for the 8 bytes of the header length.";
  EXPECT_EQ(message_for(""), "0" + few + kAgain);
  EXPECT_EQ(message_for("1234567"), "7" + few + kAgain);
  EXPECT_EQ(message_for(std::string("\x03\0\0\0\0\0\0\0{}", 10)),
            std::string("the header length 3 goes beyond the end of the file (10 bytes).") + kAgain);
  EXPECT_EQ(message_for(std::string("\x01\xE1\xF5\x05\0\0\0\0{}", 10)),
            std::string("the header length 100000001 is above the limit of 100000000 bytes.") + kAgain);
  EXPECT_EQ(message_for(std::string(8, '\xFF')),
            std::string("the header length 18446744073709551615 is above the limit of 100000000 bytes.") + kAgain);
}

TEST(SafetensorsBroken, AGitLfsPointerIsRecognised) {
  EXPECT_EQ(message_for("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
            "this is a Git LFS pointer, not the file itself. Run `git lfs pull` where it came from.");
}

TEST(SafetensorsBroken, HeaderText) {
  const std::string begin = std::string("the header does not begin with `{`.") + kAgain;
  const std::string end = std::string("the header does not end with `}` (and spaces).") + kAgain;
  EXPECT_EQ(message_for_header(""), begin);
  EXPECT_EQ(message_for_header(" {}"), begin);
  EXPECT_EQ(message_for_header("[]"), begin);
  EXPECT_EQ(message_for_header("{}\n"), end);
  EXPECT_EQ(message_for_header(std::string("{}\0", 3)), end);
  EXPECT_EQ(message_for_header("{}x"), end);
  EXPECT_EQ(message_for_header("{\"a\xFF\":1}"), std::string("the header is not UTF-8 (line 1, column 4).") + kAgain);
  EXPECT_EQ(message_for_header("{\"a\":}"), std::string("the header is not JSON (line 1, column 6).") + kAgain);
  EXPECT_EQ(message_for_header("{}{}"), std::string("the header is not JSON (line 1, column 3).") + kAgain);
  EXPECT_EQ(message_for_header("{\"a\":1e999}"),
            std::string("the header holds a number that is out of range.") + kAgain);
  EXPECT_EQ(message_for_header("{\"a\":" + std::string(200, '[') + std::string(200, ']') + "}"),
            std::string("the header is nested deeper than 100 levels.") + kAgain);
}

TEST(SafetensorsBroken, DuplicateNames) {
  const std::string entry = R"({"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  EXPECT_EQ(message_for_header("{\"a\":" + entry + ",\"a\":" + entry + "}", 1),
            std::string("the header has the name `a` twice.") + kAgain);
  EXPECT_EQ(message_for_header(R"({"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}})", 1),
            std::string("the header has the name `dtype` twice.") + kAgain);
  EXPECT_EQ(message_for_header("{\"\\u0061\":" + entry + ",\"a\":" + entry + "}", 1),
            std::string("the header has the name `a` twice.") + kAgain);
}

TEST(SafetensorsBroken, Metadata) {
  EXPECT_EQ(message_for_header(R"({"__metadata__":[]})"),
            std::string("__metadata__ must map texts to texts, but is array.") + kAgain);
  EXPECT_EQ(message_for_header(R"({"__metadata__":{"a":1}})"),
            std::string("__metadata__ must map texts to texts, but `a` is number.") + kAgain);
}

struct BrokenEntry {
  std::string entry;  // of tensor `a`, with 8 bytes of data in the file
  std::string message;
};

class SafetensorsBrokenEntry : public ::testing::TestWithParam<BrokenEntry> {};

TEST_P(SafetensorsBrokenEntry, HasItsMessage) {
  EXPECT_EQ(message_for_header("{\"a\":" + GetParam().entry + "}", 8), GetParam().message + kAgain) << GetParam().entry;
}

INSTANTIATE_TEST_SUITE_P(
    All, SafetensorsBrokenEntry,
    ::testing::Values(
        BrokenEntry{"1", "tensor `a` must be an object with dtype, shape and data_offsets."},
        BrokenEntry{R"({"shape":[8],"data_offsets":[0,8]})", "tensor `a` has no dtype."},
        BrokenEntry{R"({"dtype":"U8","data_offsets":[0,8]})", "tensor `a` has no shape."},
        BrokenEntry{R"({"dtype":"U8","shape":[8]})", "tensor `a` has no data_offsets."},
        BrokenEntry{R"({"dtype":8,"shape":[8],"data_offsets":[0,8]})", "tensor `a`: dtype must be a text."},
        BrokenEntry{R"({"dtype":"U8","shape":8,"data_offsets":[0,8]})", "tensor `a`: shape must be a list."},
        BrokenEntry{R"({"dtype":"U8","shape":[-8],"data_offsets":[0,8]})",
                    "tensor `a`: -8 in its shape is not a whole number from 0 to 2^63 - 1."},
        BrokenEntry{R"({"dtype":"U8","shape":[8.0],"data_offsets":[0,8]})",
                    "tensor `a`: 8.0 in its shape is not a whole number from 0 to 2^63 - 1."},
        BrokenEntry{R"({"dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,8]})",
                    "tensor `a`: 9223372036854775808 in its shape is not a whole number from 0 to 2^63 - 1."},
        BrokenEntry{R"({"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,8]})",
                    "tensor `a`: the product of its shape is too large."},
        BrokenEntry{R"({"dtype":"F64","shape":[2305843009213693953],"data_offsets":[0,8]})",  // 8 * this = 8 mod 2^64
                    "tensor `a`: the product of its shape is too large."},
        BrokenEntry{R"({"dtype":"U8","shape":[4294967296,4294967296,0],"data_offsets":[0,0]})",
                    "tensor `a`: the product of its shape is too large."},
        BrokenEntry{R"({"dtype":"U8","shape":[8],"data_offsets":[0]})",
                    "tensor `a`: data_offsets must be two whole numbers."},
        BrokenEntry{R"({"dtype":"U8","shape":[8],"data_offsets":[-1,8]})",
                    "tensor `a`: data_offsets must be two whole numbers."},
        BrokenEntry{R"({"dtype":"U8","shape":[8],"data_offsets":[5,4]})",
                    "tensor `a`: data_offsets begin at 5 and end before, at 4."},
        BrokenEntry{R"({"dtype":"U8","shape":[9],"data_offsets":[0,9]})",
                    "tensor `a`: data_offsets end at 9, beyond the 8 bytes of data in the file."},
        BrokenEntry{R"({"dtype":"U8","shape":[8],"data_offsets":[0,18446744073709551615]})",
                    "tensor `a`: data_offsets end at 18446744073709551615, beyond the 8 bytes of data in the file."},
        BrokenEntry{R"({"dtype":"F32","shape":[2,2],"data_offsets":[0,8]})",
                    "tensor `a`: F32 [2,2] takes 16 bytes, but data_offsets give it 8."},
        BrokenEntry{R"({"dtype":"F4","shape":[3],"data_offsets":[0,8]})",
                    "tensor `a`: F4 [3] does not fill whole bytes."},
        BrokenEntry{R"({"dtype":"U8","shape":[4],"data_offsets":[4,8]})",
                    "4 bytes of data before tensor `a` belong to no tensor."},
        BrokenEntry{R"({"dtype":"U8","shape":[4],"data_offsets":[0,4]})",
                    "the last 4 bytes of data belong to no tensor."}));

TEST(SafetensorsBroken, OverlapAndHoleBetweenTensors) {
  const auto header = [](const std::string& shape_b, const std::string& offsets_b) {
    return R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":)" + shape_b +
           R"(,"data_offsets":)" + offsets_b + "}}";
  };
  EXPECT_EQ(message_for_header(header("[5]", "[3,8]"), 8),
            std::string("tensors `a` and `b` overlap: one ends at 4, the other begins at 3.") + kAgain);
  EXPECT_EQ(message_for_header(header("[3]", "[5,8]"), 8),
            std::string("1 bytes of data before tensor `b` belong to no tensor.") + kAgain);
  EXPECT_EQ(message_for_header(header("[0]", "[2,2]"), 4),
            std::string("tensors `a` and `b` overlap: one ends at 4, the other begins at 2.") + kAgain);
}

TEST(SafetensorsBroken, AHostileNameStaysOnOneLine) {
  EXPECT_EQ(message_for_header(R"({"a\n\u001b[31m":1})"),
            std::string("tensor `a\\x0A\\x1B[31m` must be an object with dtype, shape and data_offsets.") + kAgain);
}

TEST(SafetensorsBroken, WhatIsNotAFile) {
  const Scratch scratch;
  EXPECT_EQ(message_of([&] { Checkpoint::open(scratch.file("none")); }),
            scratch.file("none") + ": no such file or directory. Check the path.");
  EXPECT_EQ(message_of([&] { Checkpoint::open("/dev/null"); }), "/dev/null: this is not a file. Check the path.");
}

}  // namespace
}  // namespace core
