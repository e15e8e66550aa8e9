# One test program per folder of tests/, one ctest entry per program: LibTorch starts once a program, not once a case.
# Suites named Long* are left out of the entry labelled `quick`; they get an entry of their own, labelled `long`.
set(test_environment MKL_CBWR=AUTO,STRICT REFRAIN_SOURCE_DIR=${CMAKE_SOURCE_DIR} REFRAIN_HOME=${CMAKE_SOURCE_DIR})
set(long_suites "Long*:*/Long*")

# Adds the ctest entry `name`: a command under `label`. Tests with LibTorch use two threads, and ctest counts them.
# Their waiting threads sleep: threads that spin make tests ten times slower when other programs use the cores.
function(refrain_test name label torch)
  add_test(NAME ${name} COMMAND ${ARGN})
  set_tests_properties(${name} PROPERTIES LABELS ${label} ENVIRONMENT "${test_environment}")
  if(torch)
    set_tests_properties(${name} PROPERTIES ENVIRONMENT "${test_environment};OMP_NUM_THREADS=2;OMP_WAIT_POLICY=PASSIVE"
                         PROCESSORS 2)
  endif()
endfunction()

# Adds the program test_<folder> and its entries.
function(refrain_test_folder folder)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/${folder}/*.cpp)
  if(folder IN_LIST program_folders)
    list(APPEND sources ${CMAKE_SOURCE_DIR}/tests/cli/program.cpp)
    list(REMOVE_DUPLICATES sources)
  endif()
  set(name test_${folder})
  add_executable(${name} ${sources})
  target_link_libraries(${name} PRIVATE GTest::gmock_main)
  target_compile_definitions(${name} PRIVATE REFRAIN_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
  target_compile_options(${name} PRIVATE -Wall -Wextra)
  if(folder IN_LIST base_folders)
    set(torch FALSE)
    target_link_libraries(${name} PRIVATE refrain_kernels)
  else()
    set(torch TRUE)
    target_link_libraries(${name} PRIVATE refrain_experiments CLI11::CLI11)
    use_precompiled_header(${name})
  endif()
  compile_in_batches(${name} 6)
  if(folder IN_LIST program_folders)
    target_compile_definitions(${name} PRIVATE REFRAIN_PROGRAM="$<TARGET_FILE:run_experiment>"
                                               REFRAIN_GENERATE="$<TARGET_FILE:generate>"
                                               REFRAIN_PREDICT="$<TARGET_FILE:predict>")
    add_dependencies(${name} run_experiment generate predict)
  endif()
  if(folder IN_LIST halved_folders)
    foreach(half 0 1)
      refrain_test(${name}_${half} quick ${torch} ${name} --gtest_filter=-${long_suites})
      set_property(TEST ${name}_${half} APPEND PROPERTY ENVIRONMENT "GTEST_TOTAL_SHARDS=2;GTEST_SHARD_INDEX=${half}")
      set_tests_properties(${name}_${half} PROPERTIES PROCESSORS 1)
    endforeach()
  else()
    refrain_test(${name} quick ${torch} ${name} --gtest_filter=-${long_suites})
  endif()
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${sources})  # a new Long* suite gets its entry
  foreach(source IN LISTS sources)
    file(STRINGS ${source} long_cases REGEX "TEST(_F|_P)?\\(Long")
    if(long_cases)
      refrain_test(${name}_long long ${torch} ${name} --gtest_filter=${long_suites})
      break()
    endif()
  endforeach()
endfunction()

set(base_folders config io text kernels)
set(program_folders cli device)  # their tests start the program
set(halved_folders experiments)  # their many small models rarely keep two cores busy: every second case beside the others
file(GLOB_RECURSE test_sources CONFIGURE_DEPENDS RELATIVE ${CMAKE_SOURCE_DIR}/tests tests/*_test.cpp)
list(TRANSFORM test_sources REPLACE "/.*" "" OUTPUT_VARIABLE test_folders)
list(REMOVE_DUPLICATES test_folders)
foreach(folder IN LISTS test_folders)
  if(folder IN_LIST base_folders OR NOT REFRAIN_SANITIZE)
    refrain_test_folder(${folder})
  endif()
endforeach()

# Every configuration of configs/regression is run anew and must find what it expects.
if(NOT REFRAIN_SANITIZE)
  file(GLOB regressions CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/configs/regression/*.yaml)
  set(out ${CMAKE_BINARY_DIR}/regression)
  refrain_test(regression_clean quick FALSE ${CMAKE_COMMAND} -E rm -rf ${out})
  refrain_test(regression quick TRUE run_experiment ${regressions} --out ${out} --quiet --threads 2)
  set_tests_properties(regression_clean PROPERTIES FIXTURES_SETUP regression_out)
  set_tests_properties(regression PROPERTIES FIXTURES_REQUIRED regression_out)

  find_package(Python3 REQUIRED COMPONENTS Interpreter)
  refrain_test(test_bootstrap quick FALSE ${Python3_EXECUTABLE} -B -m unittest discover
               -s ${CMAKE_SOURCE_DIR}/tests/bootstrap -p *_test.py)
  # What we export, run by stock llama.cpp, which is one of the Python tools of .venv.
  refrain_test(test_llama_cpp quick TRUE ${CMAKE_SOURCE_DIR}/.venv/bin/python -B -m unittest discover
               -s ${CMAKE_SOURCE_DIR}/tests/export -p *_test.py)
endif()
