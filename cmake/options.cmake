# Compiler options for every target of the project, and the helper that adds a unit test.

add_library(uvfio_options INTERFACE)
target_compile_options(uvfio_options INTERFACE
  -Wall -Wextra -Wshadow -Wcast-align -Wno-missing-field-initializers -Wunused
  $<$<COMPILE_LANGUAGE:CXX>:-Wnon-virtual-dtor -Woverloaded-virtual> -Werror)
# GCC 12 sees overflows in std::atomic where there are none.
target_compile_options(uvfio_options INTERFACE $<$<CXX_COMPILER_ID:GNU>:-Wno-stringop-overflow>)
if(UVFIO_SANITIZE)
  # Not for the static client programs, which stand for somebody else's software.
  target_compile_options(uvfio_options INTERFACE -fsanitize=${UVFIO_SANITIZE} -fno-omit-frame-pointer)
  target_link_options(uvfio_options INTERFACE -fsanitize=${UVFIO_SANITIZE})
  if(UVFIO_SANITIZE MATCHES undefined)
    target_compile_options(uvfio_options INTERFACE -fno-sanitize-recover=undefined)
  endif()
  if(UVFIO_SANITIZE MATCHES thread)
    target_compile_options(uvfio_options INTERFACE $<$<CXX_COMPILER_ID:GNU>:-Wno-tsan>)
  endif()
endif()

# uvfio_test(NAME SOURCE... [LIBRARIES LIB...]): a GoogleTest program that ctest runs.
function(uvfio_test name)
  if(NOT BUILD_TESTING)
    return()
  endif()
  cmake_parse_arguments(arg "" "" "LIBRARIES" ${ARGN})
  add_executable(${name} ${arg_UNPARSED_ARGUMENTS})
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR})
  target_link_libraries(${name} PRIVATE uvfio_options uvfio ${arg_LIBRARIES} fmt::fmt GTest::gtest_main GTest::gmock)
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES TIMEOUT 120)
endfunction()
