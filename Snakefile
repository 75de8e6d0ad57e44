# All studies, their claims and the report: `snakemake -n` shows the plan, `snakemake --cores all` runs it.
#
#   config.yaml         what to change: scale, seeds, image sets
#   workflow/Snakefile  the workflow; one file of rules per study in workflow/rules
#   workflow/scales     the sizes of each scale
#   profiles            how to run on one machine (the default) and on a cluster
#   results/<scale>     where tables, figures, networks, claims.html and report.html go


include: "workflow/Snakefile"


rule everything:
    default_target: True
    input:
        rules.all.input,


localrules:
    everything,
