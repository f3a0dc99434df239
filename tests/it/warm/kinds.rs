//! Packages of every kind that an install treats in a way of its own.

use crate::world::{Package, World};

/// Returns them all.
pub(super) fn all(world: &World) -> Vec<Package> {
    [of_r_code(), compiled(), documented(world), curious()].concat()
}

/// Returns a help page.
fn page(name: &str, text: &str) -> String {
    format!("\\name{{{name}}}\n\\alias{{{name}}}\n\\title{{{name}}}\n\\description{{{text}}}\n\\keyword{{datasets}}\n")
}

fn of_r_code() -> Vec<Package> {
    vec![
        Package::new("plain", "1.0").file("man/answer.Rd", &page("answer", "What it is.")),
        Package::new("s4", "1.0")
            .field("Imports", "methods")
            .field("Collate", "'b.R' 'a.R' 'code.R'")
            .file("NAMESPACE", "import(methods)\nexportClasses(Base, Derived)\nexportMethods(area, show)\nexport(answer)\n")
            .file("R/b.R", "setClass('Base', representation(x = 'numeric', 'VIRTUAL'))\nsetGeneric('area', function(o, ...) standardGeneric('area'))\n")
            .file("R/a.R", "setClass('Derived', contains = 'Base', validity = function(object) length(object@x) == 1)\n\
                            setMethod('area', 'Derived', function(o, ...) o@x^2)\nsetMethod('show', 'Derived', function(object) cat('it\\n'))\n\
                            Ref <- setRefClass('Ref', fields = list(n = 'numeric'), methods = list(up = function() n <<- n + 1))\n"),
        Package::new("environments", "1.0").file(
            "R/code.R",
            "cls <- local({ self <- new.env(); self$count <- 0L; self$up <- function() self$count <- self$count + 1L; self })\n\
             answer <- function() cls$up()\nmade <- Sys.time\nmemo <- local({ cache <- list(); function(k) cache[[k]] })\n",
        ),
        Package::new("lazydata", "1.0")
            .field("LazyData", "yes")
            .field("Depends", "R (>= 3.5)")
            .file("data/numbers.csv", "a;b\n1;2\n3;4\n")
            .file("data/made.R", "made <- data.frame(x = 1:3, y = factor(c('a', 'b', 'a')))\n")
            .file("man/made.Rd", &page("made", "Made.")),
        Package::new("eagerdata", "1.0").file("data/numbers.csv", "a;b\n1;2\n"),
    ]
}

fn compiled() -> Vec<Package> {
    let c = "#include <R.h>\n#include <Rinternals.h>\n#include <R_ext/Rdynload.h>\n\
             SEXP one(SEXP x) { return x; }\n\
             static const R_CallMethodDef calls[] = {{\"one\", (DL_FUNC) &one, 1}, {NULL, NULL, 0}};\n\
             void R_init_withc(DllInfo *dll) { R_registerRoutines(dll, NULL, calls, NULL, NULL); R_useDynamicSymbols(dll, FALSE); }\n";
    vec![
        Package::new("withc", "1.0")
            .file("NAMESPACE", "useDynLib(withc, .registration = TRUE)\nexport(answer)\n")
            .file("R/code.R", "answer <- function() .Call(one, 1)\n")
            .file("src/one.c", c),
        Package::new("withcpp", "1.0")
            .field("SystemRequirements", "C++14")
            .file("NAMESPACE", "useDynLib(withcpp, two, .fixes = \"C_\")\nexport(answer)\n")
            .file("src/a.cpp", "#include <vector>\n#include <Rinternals.h>\nextern \"C\" SEXP two(SEXP x) { std::vector<int> v(2); return Rf_ScalarInteger(v.size()); }\n")
            .file("src/Makevars", "PKG_CPPFLAGS = -DONE=1\n"),
        Package::new("withfortran", "1.0")
            .file("NAMESPACE", "useDynLib(withfortran)\nexport(answer)\n")
            .file("src/f.f90", "subroutine twice(x)\n  double precision :: x\n  x = 2 * x\nend subroutine twice\n")
            .file("src/g.f", "      subroutine thrice(x)\n      double precision x\n      x = 3 * x\n      end\n"),
        Package::new("ownlibs", "1.0")
            .file("src/a.c", "int a(void) { return 1; }\n")
            .file("src/install.libs.R", "dir.create(file.path(R_PACKAGE_DIR, 'libs'), FALSE, TRUE)\nfile.copy(paste0('ownlibs', SHLIB_EXT), file.path(R_PACKAGE_DIR, 'libs'))\nwriteLines('own', file.path(R_PACKAGE_DIR, 'own.txt'))\nlibrary(stats4)\nleft <- 1\n")
            .file("NAMESPACE", "useDynLib(ownlibs)\nexport(answer)\n")
            .file("R/code.R", "answer <- function() 1\nseen <- c(search(), ls(globalenv()), loadedNamespaces())\n"),
    ]
}

/// What is in R's own formats R writes, as text.
fn documented(world: &World) -> Vec<Package> {
    let save = "f <- tempfile(); hidden <- list(1, two = 'zwei'); \
                save(hidden, file = f, ascii = TRUE, compress = FALSE); cat(readLines(f), sep = '\\n')";
    let index = "f <- tempfile(); saveRDS(data.frame(File = 'intro.Rmd', Title = 'Intro', PDF = 'intro.html', R = 'intro.R', \
                 Depends = I(list(character())), Keywords = I(list(character())), stringsAsFactors = FALSE), f, ascii = TRUE, \
                 compress = FALSE); cat(readLines(f), sep = '\\n')";
    vec![
        Package::new("vignettes", "1.0")
            .field("VignetteBuilder", "knitr")
            .file("vignettes/intro.Rmd", "---\ntitle: Intro\n---\n%\\VignetteIndexEntry{Intro}\n")
            .file("inst/doc/intro.Rmd", "---\ntitle: Intro\n---\n")
            .file("inst/doc/intro.R", "1 + 1\n")
            .file("inst/doc/intro.html", "<html></html>\n")
            .file("build/vignette.rds", &world.r(index)),
        Package::new("demos", "1.0")
            .file("demo/00Index", "show  Shows it\n")
            .file("demo/show.R", "1 + 1\n")
            .executable("exec/tool", "#!/bin/sh\n")
            .file("inst/CITATION", "bibentry('Misc', title = 'T', author = 'A', year = 2000)\n")
            .file("inst/NEWS.Rd", "\\name{NEWS}\\title{News}\\section{1.0}{\\itemize{\\item First.}}\n")
            .file("NEWS.md", "# demos 1.0\n\n- First.\n")
            .file("LICENSE", "YEAR: 2000\n")
            .executable("cleanup", "#!/bin/sh\nrm -f inst/made\n"),
        Package::new("translated", "1.0")
            .field("Encoding", "UTF-8")
            .file("inst/po/de/LC_MESSAGES/R-translated.mo", "not really\n")
            .file(
                "R/code.R",
                "answer <- function() stop(gettext(\"na\u{ef}ve\"))\nnames <- c(\"\u{e4}\", \"\\u00e4\")\n",
            )
            .file("man/names.Rd", &page("names", "N\u{e4}mes.")),
        Package::new("secret", "1.0").file("R/sysdata.rda", &world.r(save)),
    ]
}

/// Those that say, see or do something while they are built.
fn curious() -> Vec<Package> {
    let environment =
        "R_LIBS R_PACKAGE_NAME HOME TMPDIR PWD LC_ALL LC_COLLATE TZ R_DEFAULT_PACKAGES R_TESTS MAKE R_ENABLE_JIT";
    vec![
        Package::new("interpreted", "1.0").field("ByteCompile", "no").field("KeepSource", "yes"),
        Package::new("chatty", "1.0")
            .file("R/code.R", "answer <- function() 1\n.onLoad <- function(lib, pkg) message('loading ', pkg)\n\
                   .onAttach <- function(lib, pkg) packageStartupMessage('hello')\nwarning('careful')\nprint('built')\nprintf <- NULL\nmessage('to stderr'); system('echo from a process')\n"),
        Package::new("parent", "1.0").file("R/code.R", "answer <- function() 'parent'\n.onLoad <- function(...) options(parent.loaded = TRUE)\n"),
        Package::new("child", "1.0")
            .field("Depends", "parent")
            .field("Suggests", "absentpackage")
            .file("NAMESPACE", "import(parent)\nexport(own)\n")
            .file("R/code.R", "own <- function() answer()\nseen <- c(getOption('parent.loaded'), 'package:parent' %in% search())\n"),
        // What is loaded to make a page must not be there when the package is tried.
        Package::new("dynamic", "1.0").file(
            "man/answer.Rd",
            &page("answer", "It is \\Sexpr[stage=install]{as.character(isNamespaceLoaded('stats4') + !is.null(loadNamespace('stats4')))}, \\Sexpr[results=text,stage=build]{R.home('nothing')}."),
        ),
        Package::new("nothing", "1.0").file("R/code.R", "").file("NAMESPACE", ""),
        Package::new("curious", "1.0").field("StagedInstall", "no").file(
            "R/code.R",
            &format!(
                "answer <- function() 1\nvars <- Sys.getenv(strsplit('{environment}', ' ')[[1]])\nvars <- sub(Sys.getenv('HOME'), 'HOME', vars)\n\
                 seen <- list(options()[setdiff(names(options()), 'x')], loadedNamespaces(), search(), exists('.Random.seed', globalenv()), \
                 interactive(), Sys.getlocale(), compiler::enableJIT(-1), ls(globalenv(), all.names = TRUE), basename(dirname(tempdir())), \
                 Sys.time() > 0, nlevels(factor(1)), commandArgs())\n"
            ),
        ),
    ]
}
