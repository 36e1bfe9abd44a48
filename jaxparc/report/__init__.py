"""Reports of a benchmark's results: tables for the terminal, and a self-contained HTML page."""

from jaxparc.report.page import write_page as write_page
from jaxparc.report.results import UNDEFINED as UNDEFINED
from jaxparc.report.results import Results as Results
from jaxparc.report.results import Spread as Spread
from jaxparc.report.results import correlations as correlations
from jaxparc.report.results import spread_of as spread_of
from jaxparc.report.terminal import accuracy_table as accuracy_table
from jaxparc.report.terminal import selector_table as selector_table
