// Names of corpora and models: the order of the data folders, the registry, and what a misspelt name is told.
#include "core/text/corpus.h"

#include <gmock/gmock.h>

#include <filesystem>

#include "core/io/data_roots.h"
#include "core/io/model_path.h"
#include "tests/text/support.h"

namespace core {
namespace {

using testing::ElementsAre;

// A home with data/ and a second data folder, as REFRAIN_HOME and REFRAIN_DATA.
class DataFolders : public testing::Test {
 protected:
  void put(const std::string& path, const std::string& content) {
    std::filesystem::create_directories(std::filesystem::path(scratch_.file(path)).parent_path());
    scratch_.put(path, content);
  }
  void put_registry() {
    put("home/data/corpora.json",
        R"({"books/test": {"file": "corpora/books.txt"}, "books/train": {"file": "corpora/train.txt"},
            "wiki/raw": {"file": "corpora/wiki.raw", "join": "rows"}})");
  }
  std::string home_data() const { return scratch_.file("home/data"); }
  std::string data() const { return scratch_.file("more"); }

  Scratch scratch_;
  Environment home_{"REFRAIN_HOME", scratch_.file("home").c_str()};
  Environment data_{"REFRAIN_DATA", scratch_.file("more").c_str()};
  Environment fetched_{"REFRAIN_MODELS", scratch_.file("fetched").c_str()};
};

TEST_F(DataFolders, HomeIsSearchedBeforeRefrainData) {
  put_registry();
  put("more/corpora/books.txt", "from more");
  EXPECT_EQ(load_corpus("books/test").text, "from more");
  EXPECT_EQ(load_corpus("books/test").path, data() + "/corpora/books.txt");
  put("home/data/corpora/books.txt", "from home");
  EXPECT_EQ(load_corpus("books/test").text, "from home");
  EXPECT_EQ(find_corpus("books/test").path, home_data() + "/corpora/books.txt");
  EXPECT_EQ(load_corpus("books/test").name, "books/test");
}

TEST_F(DataFolders, HomeDefaultsToTheWorkingDirectory) {
  const Environment no_home("REFRAIN_HOME", nullptr), no_data("REFRAIN_DATA", nullptr);
  EXPECT_THAT(data_roots(), ElementsAre("data"));
}

TEST_F(DataFolders, APathIsACorpusToo) {
  put("some.txt", "text \xc3\xa9\r\n");
  EXPECT_EQ(load_corpus(scratch_.file("some.txt")).text, "text \xc3\xa9\r\n") << "as it is";
}

TEST_F(DataFolders, RowsAreJoinedWithBlankLinesAndBlankRowsAreEmpty) {
  put_registry();
  put("more/corpora/wiki.raw", " \n = Title = \n \n Text .\n");
  EXPECT_EQ(load_corpus("wiki/raw").text, "\n\n = Title = \n\n\n\n\n Text .\n");
}

TEST_F(DataFolders, LinesAndDocumentsAreJoinedWithSpaces) {
  put("home/data/corpora.json", R"({"c4": {"file": "c4.json", "join": "documents", "documents": 2, "windows": 256},
                                    "ptb": {"file": "ptb.txt", "join": "lines"}})");
  put("more/ptb.txt", " no it was n't \n\n black monday \r\n");
  EXPECT_EQ(load_corpus("ptb").text, "no it was n't  black monday");
  EXPECT_EQ(load_corpus("ptb").windows, 0);
  put("more/c4.json", "{\"text\": \"One.\\nTwo \u00e9\", \"url\": \"\"}\n{\"text\": \"\"}\n{\"text\": \"Three\"}\n");
  EXPECT_EQ(load_corpus("c4").text, "One.\nTwo \xc3\xa9 ");
  EXPECT_EQ(load_corpus("c4").windows, 256);
}

TEST_F(DataFolders, WhatIsNoListOfDocumentsIsRefused) {
  put("home/data/corpora.json", R"({"c4": {"file": "c4.json", "join": "documents", "documents": 2}})");
  put("more/c4.json", "{\"text\": \"One.\"}\n");
  EXPECT_EQ(message_of([] { load_corpus("c4"); }),
            data() + "/c4.json: 1 documents, but this corpus is the first 2. Use the whole file of the data set.");
  for (const char* second : {"{\"body\": \"x\"}", "{\"text\": 1}", "plain text", "[]", ""}) {
    put("more/c4.json", std::string("{\"text\": \"One.\"}\n") + second + "\n");
    EXPECT_EQ(message_of([] { load_corpus("c4"); }),
              data() +
                  "/c4.json:2: an object with a text in its field `text` is expected. Unpack the data set as JSON "
                  "lines.")
        << second;
  }
}

TEST(Registry, C4AndPtbAreTheNewVariants) {
  Scratch scratch;
  const Environment home("REFRAIN_HOME", REFRAIN_SOURCE_DIR), data("REFRAIN_DATA", scratch.path().c_str());
  for (const char* folder : {"corpora/c4", "corpora/ptb"}) std::filesystem::create_directories(scratch.file(folder));
  std::string documents;
  for (int i = 0; i < 1101; ++i) documents += "{\"text\": \"document" + std::to_string(i) + "\"}\n";
  scratch.put("corpora/c4/c4-validation.00000-of-00008.json", documents);
  scratch.put("corpora/ptb/ptb.test.txt", " a b \n c \n");
  const Corpus c4 = load_corpus("c4/new");
  EXPECT_EQ(c4.text.substr(0, 20), "document0 document1 ");
  EXPECT_EQ(c4.text.substr(c4.text.size() - 13), " document1099");
  EXPECT_EQ(c4.windows, 256);
  EXPECT_EQ(load_corpus("ptb/new").text, "a b c");
}

TEST_F(DataFolders, OnlyWhatExistsIsListed) {
  EXPECT_THAT(list_corpora(), ElementsAre());
  EXPECT_THAT(list_models(), ElementsAre());
  put_registry();
  put("more/corpora/train.txt", "x");
  put("home/data/corpora/wiki.raw", "x");
  EXPECT_THAT(list_corpora(), ElementsAre("books/train", "wiki/raw"));
  put("home/data/tiny/config.json", "{}");
  put("more/models/big/config.json", "{}");
  put("more/models/family/member/config.json", "{}");
  put("more/corpora/not_a_model/readme", "");
  EXPECT_THAT(list_models(), ElementsAre("big", "family/member", "tiny"));
}

TEST_F(DataFolders, AModelIsAPathOrANameUnderADataFolder) {
  put("home/data/tiny/config.json", "{}");
  put("more/models/tiny/config.json", "{}");
  put("more/models/family/member/config.json", "{}");
  EXPECT_EQ(find_model("tiny"), home_data() + "/tiny");
  EXPECT_EQ(find_model("family/member"), data() + "/models/family/member");
  EXPECT_EQ(find_model(data() + "/models/tiny"), data() + "/models/tiny");
}

TEST_F(DataFolders, AModelThatCanBeFetchedIsFoundOnceItIsThere) {
  put("home/data/models.json", R"({"small-135m": {}})");
  EXPECT_EQ(message_of([] { find_model("small-135m"); }),
            "small-135m: this model is not here yet. Fetch it: tools/get_model small-135m");
  put("fetched/small-135m/Small.Q4_1.gguf", "GGUF");
  EXPECT_EQ(find_model("small-135m"), scratch_.file("fetched/small-135m/Small.Q4_1.gguf"));
  EXPECT_THAT(list_models(), ElementsAre("small-135m"));
  put("fetched/small-135m/Other.gguf", "GGUF");
  EXPECT_THAT(message_of([] { find_model("small-135m"); }), testing::StartsWith("small-135m: this model is not here"))
      << "two files: neither stands for the folder";
}

TEST_F(DataFolders, UnknownNamesGetTheNearestAndAllKnownOnes) {
  put_registry();
  put("more/corpora/books.txt", "x");
  put("more/models/small/config.json", "{}");
  EXPECT_EQ(message_of([] { load_corpus("books/tset"); }),
            "books/tset: no such corpus or file. Did you mean `books/test`? Known corpora: books/test. Searched: " +
                home_data() + ", " + data() + ".");
  EXPECT_EQ(message_of([] { find_model("smal"); }),
            "smal: no such model or directory. Did you mean `small`? Known models: small. Searched: " + home_data() +
                ", " + data() + ", " + fetched_models() + ".");
  EXPECT_EQ(message_of([] { load_corpus("books/train"); }),
            "books/train: its file corpora/train.txt is in none of the data folders (" + home_data() + ", " + data() +
                "). Put it into one.");
  const Environment no_data("REFRAIN_DATA", nullptr);
  EXPECT_EQ(message_of([] { load_corpus("books/test"); }),
            "books/test: its file corpora/books.txt is in none of the data folders (" + home_data() +
                "). Set REFRAIN_DATA to the folder that holds it.");
  EXPECT_EQ(message_of([] { load_corpus("elsewhere"); }),
            "elsewhere: no such corpus or file. Known corpora: none. Set REFRAIN_DATA to a folder that holds more.");
  EXPECT_EQ(message_of([] { find_model(""); }),
            ": no such model or directory. Known models: none. Set REFRAIN_DATA to a folder that holds more.");
}

TEST_F(DataFolders, BrokenInputIsNamed) {
  put("bad.txt", "ab\xff");
  EXPECT_EQ(message_of([&] { load_corpus(scratch_.file("bad.txt")); }),
            scratch_.file("bad.txt") + ": byte 2 (0xff) is not valid UTF-8. Convert the text to UTF-8.");
  EXPECT_EQ(message_of([&] { load_corpus(scratch_.path()); }),
            scratch_.path() + ": this is a directory. A corpus is a registered name or a text file.");
  const std::string registry = home_data() + "/corpora.json";
  put("home/data/corpora.json", "{");
  EXPECT_EQ(message_of([] { load_corpus("x"); }),
            registry + ": the text is not JSON (line 1, column 2). Restore the file.");
  put("home/data/corpora.json", R"({"x": {"file": "a", "join": "words"}})");
  EXPECT_EQ(message_of([] { load_corpus("x"); }),
            registry + ": x.join: `words` is not known. Choose one of none, rows, lines, documents.");
  put("home/data/corpora.json", R"({"x": {}})");
  EXPECT_EQ(message_of([] { load_corpus("x"); }),
            registry + ": x.file is missing, a text is expected. Replace the file.");
  put("home/data/corpora.json", R"(["x"])");
  EXPECT_EQ(message_of([] { load_corpus("x"); }), registry + ": an object of names is expected. Restore the file.");
}

TEST(Registry, RowsOfTheOriginalLayoutGiveTheJoinedText) {
  if (test_data().empty()) GTEST_SKIP() << "set REFRAIN_DATA to the folder with the test data";
  Scratch scratch;
  std::filesystem::create_directories(scratch.file("data"));
  scratch.put("data/corpora.json", R"({"raw": {"file": "corpora/wikitext-2-raw/wiki.test.raw", "join": "rows"}})");
  const Environment home("REFRAIN_HOME", scratch.path().c_str());
  EXPECT_TRUE(load_corpus("raw").text ==
              load_corpus(test_data() + "/corpora/wikitext-2-raw/wikitext2_test_hf_joined.txt").text);
}

TEST(Registry, TheCommittedNamesOfTheTestDataAllExist) {
  if (test_data().empty()) GTEST_SKIP() << "set REFRAIN_DATA to the folder with the test data";
  const Environment home("REFRAIN_HOME", REFRAIN_SOURCE_DIR);
  EXPECT_THAT(list_corpora(), testing::IsSupersetOf({"shakespeare", "tinystories/train", "tinystories/valid",
                                                     "wikitext2-unk/test", "wikitext2-unk/train", "wikitext2-unk/valid",
                                                     "wikitext2/test", "wikitext2/train", "wikitext2/valid"}));
  EXPECT_THAT(list_models(), testing::IsSupersetOf({"stories260K/hf_llama", "wiki-deepseek-moe", "wiki-qwen3"}));
}

}  // namespace
}  // namespace core
